"""AsymmDiT, written for one device. State-dict names are those of the published checkpoint.

Shapes: B batch; T, H, W latent frames, rows, columns; N = T * H/2 * W/2 visual tokens; L text tokens;
D_x, D_y visual and text width. Tensors come in the dtype to compute in; sigma in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import DiTConfig
from ..errors import MochiError
from .attention import AsymmetricAttention
from .formulas import gated_residual, norm_for, residual_norm_for
from .layers import CaptionPool, FinalLayer, PatchEmbed, SwiGLU, TimestepEmbedder
from .levels import FrameVectors, Vectors, alike, of_text, of_tokens, per_frame
from .rotary import rotary_table
from .runner import PLAIN, BlockRunner


@dataclass(frozen=True)
class TextContext:
    """All that the denoiser needs of the prompts; it does not depend on the step.

    Attributes:
        caption: the pooled prompt (B, D_x).
        tokens: the projected real tokens (B, L', D_y), then padding up to the longest prompt.
        lengths: how many of the tokens of each sample are real.
    """

    caption: Tensor
    tokens: Tensor
    lengths: tuple[int, ...]

    def to(self, device: torch.device) -> TextContext:
        """The same on a device."""
        return TextContext(self.caption.to(device), self.tokens.to(device), self.lengths)


class AsymmetricJointBlock(nn.Module):
    """Joint attention and an MLP for each stream, between sandwich norms. The last block only reads the text."""

    def __init__(self, config: DiTConfig, last: bool, operations: Any, **factory: Any):
        super().__init__()
        dx, dy = config.hidden_x, config.hidden_y
        self.mod_x = operations.Linear(dx, 4 * dx, **factory)
        self.mod_y = operations.Linear(dx, dy if last else 4 * dy, **factory)
        self.attn = AsymmetricAttention(config, update_y=not last, operations=operations, **factory)
        self.mlp_x = SwiGLU(dx, config.mlp_x, operations, **factory)
        self.mlp_y = None if last else SwiGLU(dy, config.mlp_y, operations, **factory)

    def forward(
        self, x: Tensor, y: Tensor, c: Vectors, rotary: Tensor, text_lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """x (B, N, D_x), y (B, L, D_y), c (B, D_x) = silu(time + caption), or that of each latent frame."""
        scale_x, gate_x, mlp_scale_x, mlp_gate_x = self.mod_x(of_tokens(c)).chunk(4, dim=-1)
        mod_y = self.mod_y(c_text := of_text(c))
        scale_y = mod_y if self.mlp_y is None else mod_y.chunk(4, dim=-1)[0]

        out_x, out_y = self.attn(
            norm_for(self.attn.qkv_x, x, scale_x, c),
            norm_for(self.attn.qkv_y, y, scale_y, c_text),
            rotary,
            text_lengths,
        )
        x, normed = residual_norm_for(self.mlp_x.w1, x, out_x, gate_x, mlp_scale_x, c)
        x = per_frame(gated_residual, c, [x, self.mlp_x(normed)], [mlp_gate_x])
        if self.mlp_y is not None:
            _, gate_y, mlp_scale_y, mlp_gate_y = mod_y.chunk(4, dim=-1)
            y, normed = residual_norm_for(self.mlp_y.w1, y, out_y, gate_y, mlp_scale_y, c_text)
            y = gated_residual(y, self.mlp_y(normed), mlp_gate_y)
        return x, y


class AsymmDiT(nn.Module):
    """Predicts `z_0 - eps`, data minus noise, from the noisy latents `z_sigma`."""

    def __init__(self, config: DiTConfig, operations: Any = nn, **factory: Any):
        # factory: dtype and device of the parameters, as torch's layers take them.
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config, operations, **factory)
        self.t_embedder = TimestepEmbedder(config.hidden_x, operations, **factory)
        self.t5_y_embedder = CaptionPool(config, operations, **factory)
        self.t5_yproj = operations.Linear(config.text_width, config.hidden_y, **factory)
        # Always float32: bfloat16 positions would be off by whole patches.
        frequencies = torch.zeros(3, config.num_heads, config.head_dim // 2, **{**factory, "dtype": torch.float32})
        self.pos_frequencies = nn.Parameter(frequencies)
        self.blocks = nn.ModuleList(
            AsymmetricJointBlock(config, last=i == config.depth - 1, operations=operations, **factory)
            for i in range(config.depth)
        )
        self.final_layer = FinalLayer(config, operations, **factory)

    def encode_text(self, features: Tensor, mask: Tensor) -> TextContext:
        """T5 features (B, L, text width) and mask (B, L) bool -> TextContext. Once per run."""
        mask = mask.bool()
        lengths = tuple(mask.sum(1).tolist())
        # Real tokens first: padding is never attended to, so it need not be computed.
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(lengths)]
        real = features.gather(1, order.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
        return TextContext(self.t5_y_embedder(features, mask), self.t5_yproj(real), lengths)

    def rotary(self, frames: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """Rotary table of latents with `frames` x `height` x `width`. Once per run."""
        p = self.config.patch_size
        frequencies = self.pos_frequencies.to(device) if device is not None else self.pos_frequencies
        return rotary_table(frequencies, frames, height // p, width // p, self.config.rope_area)

    def forward(
        self, z: Tensor, sigma: Tensor, text: TextContext, rotary: Tensor | None = None, runner: BlockRunner = PLAIN
    ) -> Tensor:
        """z (B, 12, T, H, W) at noise level sigma in [0, 1] -> `z_0 - eps`, the same shape.

        Args:
            sigma: (B,), or (B, T): each latent frame its own. For the latter a network must have been trained so.
            rotary: the table of `self.rotary` for this size, if the caller has it.
            runner: what stands around the blocks.
        """
        t, h, w = z.shape[2:]
        p = self.config.patch_size
        rotary = rotary if rotary is not None else self.rotary(t, h, w, z.device)
        c = self._vectors(z, sigma, text.caption, runner)
        # The embedded tokens have no name here, so that they are freed as soon as the first block has its own.
        x = runner.run(self.blocks, runner.enter(self.x_embedder(z)), text.tokens, c, rotary, text.lengths)
        x = runner.leave(self.final_layer(x, c))
        return rearrange(x, "b (t h w) (p q c) -> b c t (h p) (w q)", t=t, h=h // p, w=w // p, p=p, q=p)

    def _vectors(self, z: Tensor, sigma: Tensor, caption: Tensor, runner: BlockRunner) -> Vectors:
        """silu(time + caption). Raises MochiError where sigma is not one for each sample, or each of its frames."""
        batch, frames = z.shape[0], z.shape[2]
        if sigma.shape == (batch, frames) and alike(sigma):
            sigma = sigma[:, 0]
        if sigma.shape == (batch,):
            return F.silu(self.t_embedder(sigma, z.dtype) + caption)
        if sigma.shape != (batch, frames):
            raise MochiError(
                f"sigma has the shape {tuple(sigma.shape)}, but must be {(batch,)}, or {(batch, frames)}: a "
                f"level for each of the {frames} latent frames"
            )
        c = self.t_embedder(sigma.flatten(), z.dtype).unflatten(0, sigma.shape) + caption.unsqueeze(1)
        each = z.shape[3] * z.shape[4] // self.config.patch_size**2
        return FrameVectors(F.silu(c), F.silu(c.mean(1)), each, runner.first_token(frames * each))
