"""A denoiser, a decoder and an encoder on a device of this process."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from ..checkpoint import load_decoder, load_dit, load_encoder
from ..device_memory import memory_free
from ..dit import PLAIN, AsymmDiT, BlockRunner, TextContext
from ..dit.attention import use_attention
from ..dit.backends import SDPA, attention_named, describe
from ..dit.cache import Passes, StepCache
from ..dit.runner import block_call, without
from ..frames import to_pictures
from ..lora.apply import LoraMount, Loras
from ..model_dir import ModelDir
from ..sampling import Given, Watch, guided, sample
from ..settings import GenerateSettings
from ..text.visit import visiting
from ..vae import Decoder, Encoder
from ..vae.chunks import chunk_for
from ..vae.layers import in_order


class LocalDenoiser:
    """See Denoiser. One whose weights are on the CPU is on the device while it samples."""

    def __init__(
        self,
        dit: AsymmDiT,
        attention: str = SDPA,
        runner: BlockRunner = PLAIN,
        device: torch.device | None = None,
    ):
        """device: that it computes on, by default where its weights are."""
        self.dit, self._attention, self._runner = dit, attention, runner
        weight = dit.x_embedder.proj.weight  # it is never quantised
        self.dtype: torch.dtype = weight.dtype
        self.text_device: torch.device = device or weight.device
        self.devices: Sequence[torch.device | str] = (self.text_device,)
        self.passes: Passes = {}
        self._loras = LoraMount(dit, self.text_device)

    @property
    def attention(self) -> str:
        return describe(self._attention, self.text_device, self.dtype, self.dit.config.head_dim)

    def use_loras(self, loras: Loras) -> None:
        self._loras.use(loras)

    def sample(
        self,
        features: Tensor,
        mask: Tensor,
        noise: Tensor,
        settings: GenerateSettings,
        watch: Watch,
        given: Given | None = None,
    ) -> Tensor:
        with visiting(self.dit, self.text_device):
            prompt, negative = (
                self.dit.encode_text(features[i : i + 1].to(self.dtype), mask[i : i + 1]) for i in range(2)
            )
            frames, height, width = noise.shape[2:]
            rotary = self.dit.rotary(frames, height, width)
            plan = settings.cache()
            cache = StepCache(plan) if plan is not None else None

            most = 1.0 if given is None else max(given.multipliers) or 1.0  # of frames' levels, in parts of the step's

            def flow_of(
                side: int, text: TextContext, runner: BlockRunner = self._runner
            ) -> Callable[[Tensor, Tensor], Tensor]:
                def flow(z: Tensor, sigma: Tensor) -> Tensor:
                    cached = runner if cache is None else cache.around([side], sigma.max().item() / most, runner)
                    return self.dit(z.to(self.dtype), sigma, text, rotary, cached).float()

                return flow

            skip = settings.skip_layers()
            skipping = None
            if skip is not None:
                skipped = [self.dit.blocks[i] for i in skip.layers]
                skipping = flow_of(2, prompt, BlockRunner(without(self._runner.call, skipped)))
            predict = guided(flow_of(0, prompt), flow_of(1, negative), settings.scales(), skipping, skip)
            latents = sample(predict, noise.to(self.text_device), settings.sigmas(), *watch, given)
            self.passes = cache.passes if cache is not None else {}
            return latents

    def give_back(self) -> None:
        """There is no other process."""

    def close(self) -> None:
        """Nothing was started."""


class LocalDecoder:
    """See FrameDecoder. On a CPU it decodes one latent frame at a time, on a GPU as many as keep it busy and fit.

    One whose weights are on the CPU is on the device of the latents while it decodes.
    """

    def __init__(self, decoder: Decoder, dtype: torch.dtype):
        self.decoder, self._dtype = decoder, dtype

    def decode(self, z: Tensor, as_bytes: bool) -> Iterator[Tensor]:
        z, chunk = z.to(self._dtype), 1
        with visiting(self.decoder, z.device):
            if z.device.type != "cpu":
                in_order(self.decoder, z.device)
                chunk = chunk_for(self.decoder.config, z.shape, memory_free(z.device), z.dtype)
            # By `map`, which keeps no piece while the next one is made.
            yield from map(partial(to_pictures, as_bytes=as_bytes), self.decoder.stream(z, chunk))


class LocalEncoder:
    """See FrameEncoder. It is loaded at the first use, and on the device while it encodes, as T5 is."""

    def __init__(self, files: ModelDir, dtype: torch.dtype, device: torch.device):
        self._files, self._dtype, self._device = files, dtype, device

    @cached_property
    def _encoder(self) -> Encoder:
        return load_encoder(self._files.encoder, self._dtype)

    def encode(self, video: Tensor) -> Tensor:
        with visiting(self._encoder, self._device):
            return self._encoder.in_pieces(video.to(self._device, self._dtype)).mean


def load_local(
    files: ModelDir,
    weight_dtype: torch.dtype | None,
    compute_dtype: torch.dtype,
    device: torch.device,
    attention: str,
    compiled: bool,
    offload: bool = False,
) -> tuple[LocalDenoiser, LocalDecoder, LocalEncoder]:
    """The networks of a model on a device; see `load_pipeline`."""
    home = torch.device("cpu") if offload else device
    device = torch.empty(0, device=device).device  # with its number
    attend = attention_named(attention, device, compute_dtype, files.config.dit.head_dim)  # before weights are read
    dit = load_dit(files.dit, weight_dtype, home, compute=compute_dtype)
    use_attention(dit.blocks, attend)
    decoder = load_decoder(files.decoder, compute_dtype, home)
    denoiser = LocalDenoiser(dit, attention, BlockRunner(block_call(compiled)), device)
    return denoiser, LocalDecoder(decoder, compute_dtype), LocalEncoder(files, compute_dtype, device)
