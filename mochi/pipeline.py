"""From a prompt to frames on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import load_decoder, load_dit
from .config import ModelConfig
from .device_memory import give_back, memory_free
from .dit import PLAIN, AsymmDiT, BlockRunner, TextContext
from .dit.attention import use_attention
from .dit.backends import SDPA, attention_named, describe
from .dit.cache import Passes, StepCache
from .errors import Cancelled, MochiError
from .frames import to_pictures
from .geometry import latent_shape
from .lora.apply import LoraMount, Loras
from .model_dir import ModelDir, find_model
from .quant import FLOAT8
from .sampling import Denoised, guided, sample
from .settings import GenerateSettings
from .text import PromptEncoder, load_prompt_encoder
from .text.visit import visiting
from .transfer import arriving
from .vae import Decoder, to_vae
from .vae.chunks import chunk_for

__all__ = ["GenerateSettings", "Pipeline", "load_pipeline"]


class Pipeline:
    """A whole Mochi in memory. `config` tells its sizes and the settings that it likes. passes: of the last run, which
    of them a step cache had computed."""

    passes: Passes = {}

    def __init__(
        self,
        config: ModelConfig,
        text: PromptEncoder,
        dit: AsymmDiT,
        decoder: Decoder,
        attention: str = SDPA,
        runner: BlockRunner = PLAIN,
    ):
        self.config = config
        self._attention, self.runner = attention, runner
        self.text, self.dit, self.decoder = text, dit, decoder
        # Of the patch embedding, which is never packed.
        self.dtype, self.device = dit.x_embedder.proj.weight.dtype, dit.x_embedder.proj.weight.device
        self.text_device = self.device
        self._loras = LoraMount(dit)

    @property
    def attention(self) -> str:
        """What computes attention, in words."""
        return describe(self._attention, self.device, self.dtype, self.config.dit.head_dim)

    def use_loras(self, loras: Loras) -> None:
        """Have these LoRAs, each with its strength, on the denoiser, and no others.

        Raises CheckpointError on one that does not fit.
        """
        self._loras.use(loras)

    def close(self) -> None:
        """Nothing to end here; a pipeline over several devices has processes."""

    def generate(
        self,
        settings: GenerateSettings,
        on_step: Callable[[Denoised], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[Tensor]:
        """The video as batches of frames (F, H, W, 3), float32 in [0, 1], on the CPU.

        Raises Cancelled between two steps or batches once `cancelled` says so.
        """
        for frames in self.decode(self.denoise(settings, on_step, cancelled)):
            if cancelled is not None and cancelled():
                raise Cancelled("cancelled while decoding")
            yield frames

    @torch.inference_mode()
    def denoise(
        self,
        settings: GenerateSettings,
        on_step: Callable[[Denoised], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Tensor:
        """DiT latents (1, 12, T, h, w), float32. Raises MochiError where float16 overflowed."""
        features, mask = self.encode([settings.prompt, settings.negative])
        noise = noise_from_seed(latent_shape(settings.width, settings.height, settings.frames), settings.seed)
        latents = self.sample(features, mask, noise, settings, on_step, cancelled)
        if not latents.isfinite().all():
            raise MochiError(f"sampling in {self.dtype} ran out of the range of numbers; choose bfloat16 or float32")
        return latents

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """T5 features (B, L, width) and mask (B, L) of B prompts. T5 is on a GPU only while it encodes: it is as large
        as the denoiser of a small file."""
        if self.text_device.type != "cpu":
            give_back(self.text_device)  # what the last video took, so that T5 finds room
        try:
            with visiting(self.text.model, self.text_device):
                return self.text(prompts)
        finally:
            if self.text_device.type != "cpu":
                give_back(self.text_device)  # to the rank on the same GPU, if there is one

    def sample(
        self,
        features: Tensor,
        mask: Tensor,
        noise: Tensor,
        settings: GenerateSettings,
        on_step: Callable[[Denoised], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Tensor:
        """DiT latents from noise (1, 12, T, h, w); the prompt and the negative one as T5 features (2, L, width)."""
        prompt, negative = (self.dit.encode_text(features[i : i + 1].to(self.dtype), mask[i : i + 1]) for i in range(2))
        rotary = self.dit.rotary(*noise.shape[2:])
        plan = settings.cache()
        cache = StepCache(plan) if plan is not None else None

        def flow_of(side: int, text: TextContext) -> Callable[[Tensor, Tensor], Tensor]:
            def flow(z: Tensor, sigma: Tensor) -> Tensor:
                runner = self.runner if cache is None else cache.around([side], sigma.item(), self.runner)
                return self.dit(z.to(self.dtype), sigma, text, rotary, runner).float()

            return flow

        predict = guided(flow_of(0, prompt), flow_of(1, negative), settings.scales())
        latents = sample(predict, noise.to(self.device), settings.sigmas(), on_step, cancelled)
        self.passes = cache.passes if cache is not None else {}
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor, as_bytes: bool = False) -> Iterator[Tensor]:
        """DiT latents (1, 12, T, h, w) -> batches of frames (F, H, W, 3), float32 in [0, 1], on the CPU.

        as_bytes: uint8 from 0 to 255 instead, rounded; of a GPU a quarter as much has to come to the CPU.
        """
        parts = self.decode_vae(to_vae(latents, self.config.latents), as_bytes)
        yield from arriving(map(_colours_last, parts))

    def decode_vae(self, z: Tensor, as_bytes: bool) -> Iterator[Tensor]:
        """VAE latents (1, 12, T, h, w) -> frames (1, 3, F, H, W) of some latent frames after the other, as `decode`: on
        a CPU of one at a time, on a GPU of as many as keep it busy and fit."""
        z, chunk = z.to(self.dtype), 1
        if z.device.type != "cpu":
            chunk = chunk_for(self.decoder.config, z.shape, memory_free(z.device), z.dtype)
        return map(partial(to_pictures, as_bytes=as_bytes), self.decoder.stream(z, chunk))


def _colours_last(frames: Tensor) -> Tensor:
    """(1, 3, F, H, W) -> (F, H, W, 3)."""
    return frames[0].permute(1, 2, 3, 0)


def noise_from_seed(shape: tuple[int, ...], seed: int) -> Tensor:
    """Unit Gaussian noise, drawn on the CPU as ComfyUI's samplers draw it: the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def load_pipeline(
    model: str | Path | ModelDir | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    attention: str = SDPA,
    compiled: bool = False,
) -> Pipeline:
    """The model of a directory (see `find_model`; None is the built-in tiny one), ready to generate.

    device: by default the GPU if there is one. dtype: of weights and computation, by default float32 on the CPU,
    bfloat16 elsewhere; packed weights then stay packed. A float8 dtype packs those of Linear layers so.
    attention: of ATTENTIONS. compiled: whether the denoiser's blocks are, by torch.compile.
    Raises CheckpointError on files that are missing or wrong, MochiError on an attention that cannot be used here.
    """
    files = model if isinstance(model, ModelDir) else find_model(model)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    compute = compute_dtype(dtype, device)
    attend = attention_named(attention, device, compute, files.config.dit.head_dim)
    dit = load_dit(files.dit, dtype, device, compute=compute)
    use_attention(dit.blocks, attend)
    runner = PLAIN
    if compiled:
        from .dit.compiled import CompiledBlocks

        runner = BlockRunner(CompiledBlocks())
    return Pipeline(
        files.config,
        load_prompt_encoder(files.text_encoder, dtype=dtype, compute=compute),
        dit,
        load_decoder(files.decoder, compute, device),
        attention,
        runner,
    )


def compute_dtype(dtype: torch.dtype | None, device: torch.device) -> torch.dtype:
    """What to compute in where that dtype, or none, was chosen for weights."""
    if dtype is not None and dtype not in FLOAT8:
        return dtype
    return torch.float32 if device.type == "cpu" else torch.bfloat16
