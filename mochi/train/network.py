"""The frozen model with its LoRA, as training and sampling call it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..dit import AsymmDiT, TextContext
from .lora import LoraLinear
from .objective import Batch
from .ranks import Ranks
from .recompute import call_for
from .settings import Recompute

IMAGINED = 4
"""Steps from noise to latents for prompts that are kept."""


class Network:
    """Predicts the flow of clips, on this device or together with the other ranks of its group.

    Attributes:
        layers: those with a LoRA, by their published names.
        dtype: that is computed in.
    """

    def __init__(
        self, model: AsymmDiT, layers: Mapping[str, LoraLinear], ranks: Ranks, dtype: torch.dtype, recompute: Recompute
    ):
        self.model, self.layers, self.ranks, self.dtype = model, dict(layers), ranks, dtype
        self._runner = ranks.runner(model, call_for(recompute))
        self._rotary: tuple[torch.Size, Tensor] | None = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The factors of the LoRA, as files name them: `blocks.0.attn.qkv_x.lora_A`."""
        factors = {}
        for name, layer in self.layers.items():
            factors |= {f"{name}.lora_A": layer.lora_A, f"{name}.lora_B": layer.lora_B}
        return factors

    @property
    def leads(self) -> bool:
        """Whether this rank is the first of those that share its clips."""
        return self.ranks.rank % (self.ranks.size // self.ranks.groups) == 0

    @torch.no_grad()
    def text(self, features: Tensor, mask: Tensor) -> TextContext:
        """T5 features (B, L, width) and mask (B, L) -> what the denoiser needs of them."""
        device = self.ranks.device
        return self.model.encode_text(features.to(device, self.dtype), mask.to(device))

    def flow(self, z: Tensor, sigma: Tensor, text: TextContext) -> Tensor:
        """Latents (B, 12, T, h, w) at levels sigma (B,), on this device -> `z_0 - eps`, float32."""
        rotary = self._rotary_of(z.shape[2:])
        return self.model(z.to(self.dtype), sigma, text, rotary, self._runner).float()

    def loss(self, batch: Batch) -> Tensor:
        """The mean squared error of each clip of a batch, (B,)."""
        gives_way = bool(batch.kept.any())  # asked here, where no device has to be waited for
        batch = batch.to(self.ranks.device)
        noisy, target = batch.noisy, batch.target
        if gives_way:
            with torch.no_grad(), self._without_lora():
                noisy[batch.kept], target[batch.kept] = self._taught(batch.rows(batch.kept))
        flow = self.flow(noisy, batch.sigma, self.text(batch.features, batch.mask))
        return (flow - target).square().flatten(1).mean(1)

    def _taught(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the frozen model itself makes of the noise and the prompts of a batch, noised; and its prediction there.

        A few steps without guidance suffice: it is to be held to what it does, and not to good clips.
        """
        text, z = self.text(batch.features, batch.mask), batch.noise
        for step in range(IMAGINED):
            sigma = torch.full_like(batch.sigma, 1 - step / IMAGINED)
            z = z + self.flow(z, sigma, text) / IMAGINED
        noisy = replace(batch, latents=z).noisy
        return noisy, self.flow(noisy, batch.sigma, text)

    @contextmanager
    def _without_lora(self) -> Iterator[None]:
        try:
            for layer in self.layers.values():
                layer.strength = 0.0
            yield
        finally:
            for layer in self.layers.values():
                layer.strength = 1.0

    @contextmanager
    def with_weights(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Other values of the factors while inside, and no dropout."""
        factors = self.parameters
        kept = {name: p.detach().clone() for name, p in factors.items()}
        self.model.eval()
        try:
            with torch.no_grad():
                for name, p in factors.items():
                    p.copy_(values[name])
            yield
        finally:
            with torch.no_grad():
                for name, p in factors.items():
                    p.copy_(kept[name])
            self.model.train()

    @torch.no_grad()
    def _rotary_of(self, size: torch.Size) -> Tensor:
        if self._rotary is None or self._rotary[0] != size:
            self._rotary = size, self.ranks.rotary(self.model, *size)
        return self._rotary[1]
