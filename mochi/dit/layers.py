"""The small layers of AsymmDiT: MLP, and the embeddings of patches, time and caption.

B batch, N tokens, D width. `operations` is the namespace that Linear and Conv2d come from.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import DiTConfig
from ..quant import QuantRows
from .formulas import swiglu_for
from .levels import Vectors, of_tokens, per_frame


class RMSNorm(nn.Module):
    """The learned weight of an RMS norm over the last axis. The norm is computed where it is fused with other work."""

    def __init__(self, dim: int, dtype: torch.dtype | None = None, device: Any = None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, dtype=dtype, device=device))


class SwiGLU(nn.Module):
    """`w2(silu(a) * b)` with (a, b) = `w1(x)`; no bias."""

    def __init__(self, dim: int, hidden: int, operations: Any, **factory: Any):
        super().__init__()
        self.w1 = operations.Linear(dim, 2 * hidden, bias=False, **factory)
        self.w2 = operations.Linear(hidden, dim, bias=False, **factory)

    def forward(self, x: Tensor | QuantRows) -> Tensor:
        return self.w2(swiglu_for(self.w2, self.w1(x)))


class PatchEmbed(nn.Module):
    """Patches of each latent frame as tokens: (B, C, T, H, W) -> (B, T*H/p*W/p, D)."""

    def __init__(self, config: DiTConfig, operations: Any, **factory: Any):
        super().__init__()
        p = config.patch_size
        self.proj = operations.Conv2d(config.channels, config.hidden_x, kernel_size=p, stride=p, **factory)

    def forward(self, z: Tensor) -> Tensor:
        batch = z.shape[0]
        x = self.proj(rearrange(z, "b c t h w -> (b t) c h w"))
        return rearrange(x, "(b t) d h w -> b (t h w) d", b=batch)


class TimestepEmbedder(nn.Module):
    """Noise level to vector: 256 sinusoids of `1000 * (1 - sigma)`, then a two-layer MLP."""

    FEATURES = 256

    def __init__(self, dim: int, operations: Any, **factory: Any):
        super().__init__()
        self.mlp = nn.Sequential(
            operations.Linear(self.FEATURES, dim, **factory), nn.SiLU(), operations.Linear(dim, dim, **factory)
        )

    def forward(self, sigma: Tensor, dtype: torch.dtype) -> Tensor:
        """sigma (B,) in [0, 1] -> (B, D) in `dtype`. The sinusoids are float32: bfloat16 cannot tell steps apart."""
        half = self.FEATURES // 2
        index = torch.arange(half, dtype=torch.float32, device=sigma.device)
        angle = 1000 * (1 - sigma.float())[:, None] * torch.exp(index * (-math.log(10000) / half))
        return self.mlp(torch.cat((angle.cos(), angle.sin()), dim=-1).to(dtype))


class CaptionPool(nn.Module):
    """Attention pool of the T5 features: their masked mean is the only query, and a key among the others."""

    def __init__(self, config: DiTConfig, operations: Any, **factory: Any):
        super().__init__()
        self.heads = config.caption_heads
        self.to_kv = operations.Linear(config.text_width, 2 * config.text_width, **factory)
        self.to_q = operations.Linear(config.text_width, config.text_width, **factory)
        self.to_out = operations.Linear(config.text_width, config.hidden_x, **factory)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """features (B, L, text width), mask (B, L) bool -> (B, D_x). With no token left the mean is 0."""
        weights = mask.to(features.dtype).unsqueeze(-1)
        mean = (features * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
        k, v = rearrange(
            self.to_kv(torch.cat((mean, features), dim=1)), "b l (two h d) -> two b h l d", two=2, h=self.heads
        )
        q = rearrange(self.to_q(mean), "b l (h d) -> b h l d", h=self.heads)
        key_mask = F.pad(mask, (1, 0), value=True)[:, None, None, :]
        pooled = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        return self.to_out(rearrange(pooled, "b h 1 d -> b (h d)"))


class FinalLayer(nn.Module):
    """LayerNorm without weights, shift and scale from `c` = silu(time + caption), Linear to the pixels of a patch."""

    def __init__(self, config: DiTConfig, operations: Any, **factory: Any):
        super().__init__()
        self.mod = operations.Linear(config.hidden_x, 2 * config.hidden_x, **factory)
        self.linear = operations.Linear(config.hidden_x, config.patch_size**2 * config.channels, **factory)

    def forward(self, x: Tensor, c: Vectors) -> Tensor:
        """x (B, N, D), c (B, D) or that of each latent frame -> (B, N, p*p*channels)."""
        shift, scale = self.mod(of_tokens(c)).float().chunk(2, dim=-1)
        return self.linear(per_frame(_modulated_layer_norm, c, [x], [shift, scale]))


def _modulated_layer_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)
    return (normed * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)).to(x.dtype)
