"""From a prompt to frames over all GPUs: the text encoder in this process, denoiser and decoder in the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig
from ..dit.backends import SDPA
from ..dit.cache import Passes
from ..errors import Cancelled
from ..frames import to_pictures
from ..lora.apply import Loras, as_patches, shapes_of
from ..model_dir import ModelDir, find_model
from ..pipeline import GenerateSettings, Pipeline, compute_dtype
from ..sampling import Denoised
from ..text import PromptEncoder, load_prompt_encoder
from .owner.client import RemoteDiT, RemoteVAE, finish, join_passes
from .owner.manager import GroupManager
from .plan import plan_dit
from .protocol import Event, FramesDecoded, LoadDiT, LoadVAE, PassesComputed, StepDone
from .settings import ParallelSettings


class ParallelPipeline(Pipeline):
    """Makes the same video as Pipeline does, with more devices. To be closed, which ends the ranks."""

    def __init__(
        self,
        config: ModelConfig,
        text: PromptEncoder,
        manager: GroupManager,
        dit: RemoteDiT,
        decoder: RemoteVAE,
        dtype: torch.dtype,
        on_event: Callable[[Event], None] | None = None,
    ):
        self.config, self.text, self.dit, self.decoder, self.manager = config, text, dit, decoder, manager
        self.dtype, self.device = dtype, ", ".join(manager.devices)
        self.text_device = torch.device(manager.devices[0])
        self._on_event = on_event
        self._patched = False

    @property
    def attention(self) -> str:
        """As Pipeline.attention; empty before the ranks have loaded."""
        return self.dit.attention

    def use_loras(self, loras: Loras) -> None:
        """As Pipeline.use_loras; the ranks get the factors."""
        patches = as_patches(loras, shapes_of(self.config.dit))
        if patches or self._patched:  # without any, the ranks need not start yet
            finish(self.dit.patch(object() if patches else None, patches), self._on_event)
            self._patched = bool(patches)

    def close(self) -> None:
        """End the ranks."""
        self.manager.close()

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As Pipeline.encode, on the GPU of rank 0."""
        if self.text_device.type != "cpu":
            self.manager.give_back()
        return super().encode(prompts)

    def sample(
        self,
        features: Tensor,
        mask: Tensor,
        noise: Tensor,
        settings: GenerateSettings,
        on_step: Callable[[Denoised], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Tensor:
        """As Pipeline.sample; the whole run is one request to the ranks."""

        told: dict[int, Passes] = {}

        def hear(event: Event) -> None:
            if isinstance(event.payload, PassesComputed):
                told[event.rank] = event.payload.passes
            if self._on_event is not None:
                self._on_event(event)
            if on_step is not None and event.rank == 0 and isinstance(event.payload, StepDone):
                on_step(event.payload.denoised)

        def check() -> None:
            if cancelled is not None and cancelled():
                raise Cancelled("cancelled while sampling")

        text = self.dit.text(features, mask)
        run = self.dit.sample(noise, settings.sigmas(), settings.scales(), [(text, 0)], [(text, 1)], settings.cache())
        latents = finish(run, hear, check)
        self.passes = join_passes(told[rank] for rank in sorted(told))
        return latents

    def decode_vae(self, z: Tensor, as_bytes: bool) -> Iterator[Tensor]:
        """As Pipeline.decode_vae; the frames come as soon as all ranks have theirs."""
        for event in self.decoder.decode(z, as_bytes):
            if event is not None and isinstance(event.payload, FramesDecoded):
                frames = event.payload.frames
                yield frames if as_bytes else to_pictures(frames)


def load_parallel_pipeline(
    model: str | Path | ModelDir | None,
    settings: ParallelSettings,
    dtype: torch.dtype | None = None,
    on_event: Callable[[Event], None] | None = None,
    attention: str = SDPA,
    compiled: bool = False,
) -> ParallelPipeline:
    """As load_pipeline, over the devices of `settings`. on_event hears the ranks.

    Raises CheckpointError on wrong files, MochiError on devices that are not there and splits that cannot be. The ranks
    start with the first use.
    """
    files = model if isinstance(model, ModelDir) else find_model(model)
    manager = GroupManager(settings.devices(), settings.timeout)
    compute = compute_dtype(dtype, torch.device(manager.devices[0]))
    network = files.dit.plan("dit", weight_dtype=dtype, compute_dtype=compute).model
    request = LoadDiT(files.dit.path, dtype, compute, attention=attention, compiled=compiled)
    plan = plan_dit(request, network, settings, manager.devices)
    return ParallelPipeline(
        files.config,
        load_prompt_encoder(files.text_encoder, dtype=dtype, compute=compute),
        manager,
        RemoteDiT(manager, plan.request, plan.degrees),
        RemoteVAE(manager, LoadVAE(files.decoder.path, None, compute)),
        compute,
        on_event,
    )
