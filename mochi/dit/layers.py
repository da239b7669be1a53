"""The small layers of AsymmDiT: norms, MLP, and the embeddings of time and caption.

B batch, N tokens, D width. `operations` is the namespace that Linear and Conv2d come from. What a function has made
itself it changes in place: asking for memory takes a processor longer than the arithmetic. A `formula` has a kernel for
CUDA; see mochi/kernels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import DiTConfig
from ..kernels import formula
from ..quant import QuantLinear, QuantRows, quantize_rows


@formula("norm:modulated_rms_norm")
def modulated_rms_norm(x: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """RMS norm of x (B, N, D) times `1 + scale` (B, D), in float32."""
    normed = F.rms_norm(x.float(), x.shape[-1:], eps=eps)
    return normed.mul_(1 + scale.float().unsqueeze(1)).to(x.dtype)


@formula("norm:gated_residual")
def gated_residual(x: Tensor, branch: Tensor, gate: Tensor, eps: float = 1e-6) -> Tensor:
    """`x + tanh(gate) * rms_norm(branch)`, in float32; x and branch (B, N, D), gate (B, D)."""
    normed = F.rms_norm(branch.float(), branch.shape[-1:], eps=eps)
    return normed.mul_(gate.float().tanh().unsqueeze(1)).add_(x).to(x.dtype)


@formula("norm:gated_residual_norm")
def gated_residual_norm(
    x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """What `gated_residual` makes of x, branch and gate, and the `modulated_rms_norm` of that by scale (B, D)."""
    x = gated_residual.reference(x, branch, gate, eps)
    return x, modulated_rms_norm.reference(x, scale, eps)


@formula("swiglu:swiglu")
def swiglu(packed: Tensor) -> Tensor:
    """`silu(a) * b` with (a, b) = packed (..., 2 H), side by side -> (..., H)."""
    a, b = packed.chunk(2, dim=-1)
    return F.silu(a).mul_(b)


@formula("norm:modulated_rms_norm_rows")
def modulated_rms_norm_rows(x: Tensor, scale: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """`modulated_rms_norm` as QuantRows."""
    return quantize_rows.reference(modulated_rms_norm.reference(x, scale, eps))


@formula("norm:gated_residual_norm_rows")
def gated_residual_norm_rows(
    x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """`gated_residual_norm`, of which the norm as QuantRows."""
    x, normed = gated_residual_norm.reference(x, branch, gate, scale, eps)
    return x, *quantize_rows.reference(normed)


@formula("swiglu:swiglu_rows")
def swiglu_rows(packed: Tensor) -> tuple[Tensor, Tensor]:
    """`swiglu` as QuantRows."""
    return quantize_rows.reference(swiglu.reference(packed))


def takes_rows(linear: nn.Module, like: Tensor) -> bool:
    """Whether a layer wants its input, of that dtype and device, as QuantRows: what makes it then writes those."""
    if torch.compiler.is_compiling() or not isinstance(linear, QuantLinear):  # one code for all blocks, of any packing
        return False
    return linear.takes_rows(like)


def norm_for(linear: nn.Module, x: Tensor, scale: Tensor) -> Tensor | QuantRows:
    """`modulated_rms_norm` for a Linear layer."""
    return QuantRows(*modulated_rms_norm_rows(x, scale)) if takes_rows(linear, x) else modulated_rms_norm(x, scale)


def residual_norm_for(
    linear: nn.Module, x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor | QuantRows]:
    """`gated_residual_norm`, of which the norm is for a Linear layer."""
    if not takes_rows(linear, x):
        return gated_residual_norm(x, branch, gate, scale)
    x, *normed = gated_residual_norm_rows(x, branch, gate, scale)
    return x, QuantRows(*normed)


def swiglu_for(linear: nn.Module, packed: Tensor) -> Tensor | QuantRows:
    """`swiglu` for a Linear layer."""
    return QuantRows(*swiglu_rows(packed)) if takes_rows(linear, packed) else swiglu(packed)


class RMSNorm(nn.Module):
    """The learned weight of an RMS norm over the last axis; what is fused with the norm computes it."""

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

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B, N, D), c (B, D) -> (B, N, p*p*channels)."""
        shift, scale = self.mod(c).float().unsqueeze(1).chunk(2, dim=-1)
        normed = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)
        return self.linear((normed * (1 + scale) + shift).to(x.dtype))
