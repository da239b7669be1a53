"""A whole Mochi: T5, a denoiser and a frame decoder, which may be here or in other processes."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..config import ModelConfig
from ..device_memory import give_back
from ..dit.cache import Passes
from ..errors import Cancelled, MochiError
from ..geometry import latent_shape
from ..lora.apply import Loras
from ..sampling import Given, Watch
from ..settings import GenerateSettings
from ..text import PromptEncoder
from ..text.visit import visiting
from ..transfer import arriving
from ..vae import to_vae
from .given import give_frames, with_kept

NOBODY = Watch()
"""Nobody follows the run, and nobody cancels it."""


class Denoiser(Protocol):
    """Makes latents of noise.

    Attributes:
        dtype: what it computes in.
        devices: that it computes on, for people.
        text_device: that the text encoder visits.
        passes: of the last run, which of its passes a step cache computed; empty without one.
    """

    dtype: torch.dtype
    devices: Sequence[torch.device | str]
    text_device: torch.device
    passes: Passes

    @property
    def attention(self) -> str:
        """What computes attention, in words."""
        ...

    def use_loras(self, loras: Loras) -> None:
        """Have these LoRAs, each with its strength, and no others. Raises CheckpointError on one that does not fit."""

    def sample(
        self,
        features: Tensor,
        mask: Tensor,
        noise: Tensor,
        settings: GenerateSettings,
        watch: Watch,
        given: Given | None = None,
    ) -> Tensor:
        """DiT latents from noise (1, 12, T, h, w). features (2, L, width), mask (2, L): the prompt, the negative one.

        given: frames with noise levels of their own. Raises Cancelled between two steps once `watch` says so.
        """
        ...

    def give_back(self) -> None:
        """Return memory of other processes that is not used, so that the text encoder finds room."""

    def close(self) -> None:
        """End what the denoiser has started."""


class FrameDecoder(Protocol):
    """Makes frames of latents."""

    def decode(self, z: Tensor, as_bytes: bool) -> Iterator[Tensor]:
        """VAE latents (1, 12, T, h, w) -> frames (1, 3, F, H, W) of some latent frames after the other, as
        `to_pictures` gives them."""
        ...


class FrameEncoder(Protocol):
    """Makes latents of frames."""

    def encode(self, video: Tensor) -> Tensor:
        """Frames (1, 3, F, H, W) in -1 to 1 -> mean VAE latents (1, 12, T, h, w).

        Raises CheckpointError where the model has no encoder.
        """
        ...


class Pipeline:
    """Makes videos. To be closed where the denoiser is in other processes.

    Attributes:
        config: sizes of the model, and its default settings.
        variant: of the denoiser, one of VARIANTS.
        text_device: where T5 is while it encodes. Otherwise it is on the CPU, since it is as large as a denoiser in a
            small file.
    """

    def __init__(
        self,
        config: ModelConfig,
        variant: str,
        text: PromptEncoder,
        denoiser: Denoiser,
        decoder: FrameDecoder,
        encoder: FrameEncoder,
    ):
        self.config, self.variant, self.text = config, variant, text
        self.denoiser, self.decoder, self.encoder = denoiser, decoder, encoder
        self.text_device = denoiser.text_device

    @property
    def attention(self) -> str:
        """What computes attention, in words."""
        return self.denoiser.attention

    @property
    def passes(self) -> Passes:
        """See Denoiser."""
        return self.denoiser.passes

    def use_loras(self, loras: Loras) -> None:
        """See `Denoiser.use_loras`."""
        self.denoiser.use_loras(loras)

    def close(self) -> None:
        """End other processes, if there are any."""
        self.denoiser.close()

    def generate(self, settings: GenerateSettings, watch: Watch = NOBODY) -> Iterator[Tensor]:
        """The video as batches of frames (F, H, W, 3), float32 in [0, 1], on the CPU.

        Raises Cancelled between two steps or batches once `watch` says so.
        """
        for frames in self.decode(self.denoise(settings, watch)):
            if watch.cancelled is not None and watch.cancelled():
                raise Cancelled("cancelled while decoding")
            yield frames

    @torch.inference_mode()
    def denoise(self, settings: GenerateSettings, watch: Watch = NOBODY) -> Tensor:
        """DiT latents (1, 12, T, h, w), float32.

        Raises MochiError where float16 overflowed, and on pictures or blocks to leave out that cannot be.
        """
        settings.check_depth(self.config.dit.depth)
        given = shown = None
        if settings.images:
            given, shown = give_frames(settings, self.variant, self.config.latents, self.encoder.encode)
        features, mask = self.encode([settings.prompt, settings.negative])
        noise = noise_from_seed(latent_shape(settings.width, settings.height, settings.frames), settings.seed)
        latents = self.denoiser.sample(features, mask, noise, settings, watch, given)
        if given is not None and shown is not None:
            latents = with_kept(latents, given, shown)
        if not latents.isfinite().all():
            dtype = self.denoiser.dtype
            raise MochiError(f"sampling in {dtype} ran out of the range of numbers; choose bfloat16 or float32")
        return latents

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """T5 features (B, L, width) and mask (B, L) of B prompts."""
        is_on_gpu = self.text_device.type != "cpu"
        if is_on_gpu:
            self.denoiser.give_back()
            give_back(self.text_device)  # what the last video took
        try:
            with visiting(self.text.model, self.text_device):
                return self.text(prompts)
        finally:
            if is_on_gpu:
                give_back(self.text_device)  # to the rank on the same GPU, if there is one

    @torch.inference_mode()
    def decode(self, latents: Tensor, as_bytes: bool = False) -> Iterator[Tensor]:
        """DiT latents (1, 12, T, h, w) -> batches of frames (F, H, W, 3), float32 in [0, 1], on the CPU.

        as_bytes: uint8 from 0 to 255 instead, rounded. A quarter as much then comes from a GPU to the CPU.
        """
        parts = self.decoder.decode(to_vae(latents, self.config.latents), as_bytes)
        # By `map`, which keeps no piece while the next one is made.
        yield from arriving(map(_colours_last, parts))


def _colours_last(frames: Tensor) -> Tensor:
    """(1, 3, F, H, W) -> (F, H, W, 3)."""
    return frames[0].permute(1, 2, 3, 0)


def noise_from_seed(shape: tuple[int, ...], seed: int) -> Tensor:
    """Unit Gaussian noise, drawn on the CPU as ComfyUI's samplers draw it: the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
