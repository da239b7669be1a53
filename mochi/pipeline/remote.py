"""A denoiser, a decoder and an encoder in the processes of a group, one for each device."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..config import DiTConfig
from ..device_memory import usual_device
from ..dit.cache import Passes
from ..errors import Cancelled
from ..frames import to_pictures
from ..lora.apply import Loras, as_patches, patchable_shapes_for
from ..model_dir import ModelDir
from ..parallel.owner.client import RemoteDiT, RemoteVAE, finish, join_passes
from ..parallel.owner.manager import GroupManager
from ..parallel.plan import plan_dit
from ..parallel.protocol import Event, FramesDecoded, LoadDiT, LoadVAE, PassesComputed, StepDone
from ..parallel.settings import ParallelSettings
from ..sampling import Given, Watch
from ..settings import GenerateSettings


class RemoteDenoiser:
    """See Denoiser. The processes start at the first use; before, `attention` is empty."""

    def __init__(self, config: DiTConfig, dit: RemoteDiT, dtype: torch.dtype):
        self._config, self._dit, self.dtype = config, dit, dtype
        manager = dit.manager
        self.devices: Sequence[torch.device | str] = manager.devices
        self.text_device = usual_device() if manager.is_elsewhere else torch.device(manager.devices[0])
        self.passes: Passes = {}

    @property
    def attention(self) -> str:
        return self._dit.attention

    def use_loras(self, loras: Loras) -> None:
        patches = as_patches(loras, patchable_shapes_for(self._config))
        if patches or self._dit.patched is not None:  # without any, the processes need not start yet
            finish(self._dit.patch(object() if patches else None, patches))

    def sample(
        self,
        features: Tensor,
        mask: Tensor,
        noise: Tensor,
        settings: GenerateSettings,
        watch: Watch,
        given: Given | None = None,
    ) -> Tensor:
        """The whole run is one request."""
        told: dict[int, Passes] = {}

        def hear(event: Event) -> None:
            if isinstance(event.payload, PassesComputed):
                told[event.rank] = event.payload.passes
            if watch.on_step is not None and event.rank == 0 and isinstance(event.payload, StepDone):
                watch.on_step(event.payload.denoised)

        def check() -> None:
            if watch.cancelled is not None and watch.cancelled():
                raise Cancelled("cancelled while sampling")

        text = self._dit.text(features, mask)
        run = self._dit.sample(
            noise,
            settings.sigmas(),
            settings.scales(),
            [(text, 0)],
            [(text, 1)],
            settings.cache(),
            given,
            settings.skip_layers(),
        )
        latents = finish(run, hear, check)
        self.passes = join_passes(told[rank] for rank in sorted(told))
        return latents

    def give_back(self) -> None:
        self._dit.manager.give_back()

    def close(self) -> None:
        self._dit.manager.close()


class RemoteDecoder:
    """See FrameDecoder. Frames come as soon as all processes have their part of them."""

    def __init__(self, vae: RemoteVAE):
        self._vae = vae

    def decode(self, z: Tensor, as_bytes: bool) -> Iterator[Tensor]:
        for event in self._vae.decode(z, as_bytes):
            if event is not None and isinstance(event.payload, FramesDecoded):
                frames = event.payload.frames
                yield frames if as_bytes else to_pictures(frames)


class RemoteEncoder:
    """See FrameEncoder. It is loaded at the first use."""

    def __init__(self, manager: GroupManager, files: ModelDir, dtype: torch.dtype):
        self._manager, self._files, self._dtype = manager, files, dtype

    @cached_property
    def _vae(self) -> RemoteVAE:
        path = self._files.encoder.path.absolute()
        return RemoteVAE(self._manager, LoadVAE(None, path, self._dtype))

    def encode(self, video: Tensor) -> Tensor:
        return finish(self._vae.encode(video))


def load_remote(
    files: ModelDir,
    weight_dtype: torch.dtype | None,
    compute_dtype: torch.dtype,
    parallel: ParallelSettings,
    manager: GroupManager,
    attention: str,
    compiled: bool,
    passes: int,
) -> tuple[RemoteDenoiser, RemoteDecoder, RemoteEncoder]:
    """The networks of a model over the devices of `parallel`, once they are used; see `load_pipeline`."""
    network = files.dit.plan("dit", weight_dtype=weight_dtype, compute_dtype=compute_dtype).model
    dit_path, decoder_path = files.dit.path.absolute(), files.decoder.path.absolute()  # they work in another folder
    request = LoadDiT(dit_path, weight_dtype, compute_dtype, attention=attention, compiled=compiled)
    plan = plan_dit(request, network, parallel, manager.devices, passes, manager.machines, manager.smallest_gpu)
    dit = RemoteDiT(manager, plan.request, plan.degrees)
    vae = RemoteVAE(manager, LoadVAE(decoder_path, None, compute_dtype))
    denoiser = RemoteDenoiser(files.config.dit, dit, compute_dtype)
    return denoiser, RemoteDecoder(vae), RemoteEncoder(manager, files, compute_dtype)
