"""The formulas of AsymmDiT: norms, gates and SwiGLU, each with a kernel for CUDA (see mochi/kernels).

B batch, N tokens, D width. A function changes its own intermediate results in place, since asking for memory takes a
CPU longer than the arithmetic.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import formula
from ..quant import QuantLinear, QuantRows, quantize_rows
from .gradients import OfGatedResidual, OfGatedResidualNorm, OfModulatedRmsNorm, OfSwiglu
from .levels import Vectors, per_frame


@formula("norm:modulated_rms_norm", gradient=OfModulatedRmsNorm)
def modulated_rms_norm(x: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """RMS norm of x (B, N, D) times `1 + scale` (B, D), in float32."""
    normed = F.rms_norm(x.float(), x.shape[-1:], eps=eps)
    return normed.mul_(1 + scale.float().unsqueeze(1)).to(x.dtype)


@formula("norm:gated_residual", gradient=OfGatedResidual)
def gated_residual(x: Tensor, branch: Tensor, gate: Tensor, eps: float = 1e-6) -> Tensor:
    """`x + tanh(gate) * rms_norm(branch)`, in float32; x and branch (B, N, D), gate (B, D)."""
    normed = F.rms_norm(branch.float(), branch.shape[-1:], eps=eps)
    return normed.mul_(gate.float().tanh().unsqueeze(1)).add_(x).to(x.dtype)


@formula("norm:gated_residual_norm", gradient=OfGatedResidualNorm)
def gated_residual_norm(
    x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """`gated_residual` of x, branch and gate, and the `modulated_rms_norm` of the result by scale (B, D)."""
    x = gated_residual.reference(x, branch, gate, eps)
    return x, modulated_rms_norm.reference(x, scale, eps)


@formula("swiglu:swiglu", gradient=OfSwiglu)
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
    """`gated_residual_norm`, whose norm comes as QuantRows."""
    x, normed = gated_residual_norm.reference(x, branch, gate, scale, eps)
    return x, *quantize_rows.reference(normed)


@formula("swiglu:swiglu_rows")
def swiglu_rows(packed: Tensor) -> tuple[Tensor, Tensor]:
    """`swiglu` as QuantRows."""
    return quantize_rows.reference(swiglu.reference(packed))


def takes_rows(linear: nn.Module, like: Tensor) -> bool:
    """Whether a layer wants its input, of that dtype and device, as QuantRows."""
    if torch.compiler.is_compiling() or not isinstance(linear, QuantLinear):  # one code for all blocks, of any quant
        return False
    return linear.takes_rows(like)


def norm_for(linear: nn.Module, x: Tensor, scale: Tensor, c: Vectors) -> Tensor | QuantRows:
    """`modulated_rms_norm` for a Linear layer. c: says of which frames the tokens are."""
    if not takes_rows(linear, x):
        return per_frame(modulated_rms_norm, c, [x], [scale])
    return QuantRows(*per_frame(modulated_rms_norm_rows, c, [x], [scale]))


def residual_norm_for(
    linear: nn.Module, x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor, c: Vectors
) -> tuple[Tensor, Tensor | QuantRows]:
    """`gated_residual_norm`, whose norm is for a Linear layer. c: says of which frames the tokens are."""
    if not takes_rows(linear, x):
        return per_frame(gated_residual_norm, c, [x, branch], [gate, scale])
    x, *normed = per_frame(gated_residual_norm_rows, c, [x, branch], [gate, scale])
    return x, QuantRows(*normed)


def swiglu_for(linear: nn.Module, packed: Tensor) -> Tensor | QuantRows:
    """`swiglu` for a Linear layer."""
    return QuantRows(*swiglu_rows(packed)) if takes_rows(linear, packed) else swiglu(packed)
