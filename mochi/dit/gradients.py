"""Gradients of the formulas of AsymmDiT by those of its tokens, in plain torch.

Each is a formula with what its gradients need: only its inputs are kept, in their own dtype, and not what is computed
in between in float32. The gradients are computed in float32 and rounded once.

B batch, N tokens, D width, h heads, d head width. run: computes the formula itself, without gradients.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..kernels import Gradient
from .rotary import rotate

Given = tuple[Tensor | None, ...]
Run = Callable[..., Any]


class OfModulatedRmsNorm(Gradient):
    """By x (B, N, D)."""

    @staticmethod
    def forward(ctx: Any, run: Run, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.eps = eps
        return run(x, scale, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Given:
        x, scale = ctx.saved_tensors
        return None, _of_modulated(grad, x, scale, ctx.eps).to(x.dtype), None, None


class OfGatedResidual(Gradient):
    """By x and branch (B, N, D)."""

    learns = 2

    @staticmethod
    def forward(ctx: Any, run: Run, x: Tensor, branch: Tensor, gate: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(branch, gate)
        ctx.eps = eps
        return run(x, branch, gate, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Given:
        branch, gate = ctx.saved_tensors
        return None, grad, _of_gated(grad, branch, gate, ctx.eps), None, None


class OfGatedResidualNorm(Gradient):
    """By x and branch (B, N, D). The residual, which is normed, is kept, and not x."""

    learns = 2

    @staticmethod
    def forward(
        ctx: Any, run: Run, x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        residual, normed = run(x, branch, gate, scale, eps)
        ctx.save_for_backward(residual, branch, gate, scale)
        ctx.eps = eps
        return residual, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, of_normed: Tensor) -> Given:
        residual, branch, gate, scale = ctx.saved_tensors
        of_x = _of_modulated(of_normed, residual, scale, ctx.eps).add_(grad)
        return None, of_x.to(grad.dtype), _of_gated(of_x, branch, gate, ctx.eps), None, None, None


class OfSwiglu(Gradient):
    """By packed (..., 2 H)."""

    @staticmethod
    def forward(ctx: Any, run: Run, packed: Tensor) -> Tensor:
        ctx.save_for_backward(packed)
        return run(packed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Given:
        (packed,) = ctx.saved_tensors
        a, b = packed.chunk(2, dim=-1)
        out = torch.empty_like(packed)
        of_a, of_b = out.chunk(2, dim=-1)
        torch.mul(grad, F.silu(a), out=of_b)
        of_a.copy_(torch.ops.aten.silu_backward(grad * b, a))
        return None, out


class OfJointHeads(Gradient):
    """By x (B, N, 3, h, d) and y (B, L, 3, h, d)."""

    learns = 2

    @staticmethod
    def forward(ctx: Any, run: Run, x: Tensor, y: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        *weights, turns, eps = others
        ctx.save_for_backward(x, y, turns, *weights)
        ctx.eps = eps
        return run(x, y, *others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Given:
        x, y, turns, q_weight_x, k_weight_x, q_weight_y, k_weight_y = ctx.saved_tensors
        visual, text = zip(*(grad.split((x.shape[1], y.shape[1]), dim=1) for grad in grads))
        of_x = _of_heads(visual, x, (q_weight_x, k_weight_x), turns, ctx.eps)
        of_y = _of_heads(text, y, (q_weight_y, k_weight_y), None, ctx.eps)
        return None, of_x, of_y, *[None] * 6


def _of_heads(
    grads: tuple[Tensor, ...], packed: Tensor, weights: tuple[Tensor, Tensor], turns: Tensor | None, eps: float
) -> Tensor:
    """Of a stream's queries, keys and values, as they leave their Linear layer."""
    out, back = torch.empty_like(packed), None if turns is None else turns * turns.new_tensor((1, -1))
    for i, weight in enumerate(weights):
        grad = grads[i].to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        grad = (grad if back is None else rotate(grad, back)).mul_(weight.float())
        out[:, :, i] = _of_rms_norm(grad, packed[:, :, i], eps)
    out[:, :, 2] = grads[2]
    return out


def _of_modulated(grad: Tensor, x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Float32, a new tensor."""
    return _of_rms_norm(grad.float() * (1 + scale.float()).unsqueeze(1), x, eps)


def _of_gated(grad: Tensor, branch: Tensor, gate: Tensor, eps: float) -> Tensor:
    return _of_rms_norm(grad.float() * gate.float().tanh().unsqueeze(1), branch, eps).to(branch.dtype)


def _of_rms_norm(grad: Tensor, x: Tensor, eps: float) -> Tensor:
    """By x, of its norm over the last axis without a weight. Uses the memory of grad, float32."""
    x = x.float()
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    along = (grad * x).mean(-1, keepdim=True).mul_(inverse.square())
    return grad.addcmul_(x, along, value=-1).mul_(inverse)
