"""AsymmVAE encoder: frames to a Gaussian over latents. State-dict names are the published ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import EncoderConfig
from .layers import ResBlock, causal_conv, per_position
from .stream import Borders, Stream


class Posterior(NamedTuple):
    """Mean and log-variance of the latents, each (B, 12, T, h, w). Encoding for use takes the mean."""

    mean: Tensor
    logvar: Tensor


def fourier_features(video: Tensor, exponents: tuple[int, ...]) -> Tensor:
    """Append `sin`, then `cos`, of `2 pi 2^k rgb` to the channels of a video (B, 3, F, H, W).

    In float32, since bfloat16 cannot hold the phase. Channel order: r g b, then for each colour every k.
    """
    pixels = video.float()
    waves = 2 * torch.pi * 2.0 ** torch.tensor(exponents, dtype=torch.float32, device=video.device)
    phase = pixels.repeat_interleave(len(exponents), dim=1) * waves.repeat(3)[:, None, None, None]
    return torch.cat((pixels, phase.sin(), phase.cos()), dim=1).to(video.dtype)


class TemporalAttention(nn.Module):
    """Causal self-attention over the frames at each pixel, with unit-length queries and keys."""

    def __init__(self, dim: int, head_dim: int, operations: Any, **factory: Any):
        super().__init__()
        self.head_dim = head_dim
        self.qkv = operations.Linear(dim, 3 * dim, bias=False, **factory)
        self.out = operations.Linear(dim, dim, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        b, _, _, h, w = x.shape
        packed = self.qkv(rearrange(x, "b c t h w -> (b h w) t c"))
        q, k, v = rearrange(packed, "n t (three heads d) -> three n heads t d", three=3, d=self.head_dim)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        out = self.out(rearrange(attend_in_chunks(q, k, v), "n heads t d -> n t (heads d)"))
        return rearrange(out, "(b h w) t c -> b c t h w", b=b, h=h, w=w)


def attend_in_chunks(q: Tensor, k: Tensor, v: Tensor, chunk: int = 32768) -> Tensor:
    """Causal attention, (pixels, heads, T, d); some CUDA kernels take at most 65535 rows of a batch."""
    parts = zip(q.split(chunk), k.split(chunk), v.split(chunk), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part, is_causal=True) for part in parts])


class AttentionBlock(nn.Module):
    """`x + attn(norm(x))`."""

    def __init__(self, dim: int, config: EncoderConfig, operations: Any, **factory: Any):
        super().__init__()
        self.norm = operations.GroupNorm(config.groups, dim, **factory)
        self.attn = TemporalAttention(dim, config.attention_head_dim, operations, **factory)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return x + self.attn(stream.borders.norm(self.norm, x))


class DownStage(nn.Module):
    """A convolution whose kernel is its stride, then residual blocks."""

    def __init__(
        self, dim: int, out: int, time: int, space: int, blocks: list[nn.Module], operations: Any, **factory: Any
    ):
        super().__init__()
        kernel = (time, space, space)
        shrink = operations.Conv3d(dim, out, kernel_size=kernel, stride=kernel, **factory)
        self.layers = nn.ModuleList([shrink, *blocks])

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, dim, T, H, W) -> (B, out, (T-1)/time + 1, H/space, W/space)."""
        shrink, *blocks = self.layers
        x = causal_conv(shrink, x, stream)
        for block in blocks:
            x = block(x, stream)
        return x


class Encoder(nn.Module):
    """Frames (B, 3, F, H, W) in -1 to 1 -> Posterior of the VAE latents (B, 12, T, h, w)."""

    def __init__(
        self,
        config: EncoderConfig,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.config = config
        factory = {"dtype": dtype, "device": device}
        shallow, *_, deep = widths = config.widths

        def res_blocks(dim: int, count: int, attention: bool) -> list[nn.Module]:
            return [
                ResBlock(
                    dim,
                    config.groups,
                    operations,
                    AttentionBlock(dim, config, operations, **factory) if attention else None,
                    **factory,
                )
                for _ in range(count)
            ]

        layers: list[nn.Module] = [operations.Linear(config.in_channels, shallow, **factory)]
        layers += res_blocks(shallow, config.res_blocks[0], config.attention[0])
        for i, (time, space) in enumerate(zip(config.temporal, config.spatial, strict=True)):
            blocks = res_blocks(widths[i + 1], config.res_blocks[i + 1], config.attention[i + 1])
            layers.append(DownStage(widths[i], widths[i + 1], time, space, blocks, operations, **factory))
        layers += res_blocks(deep, config.res_blocks[-1], config.attention[-1])
        self.layers = nn.ModuleList(layers)
        self.output_norm = operations.GroupNorm(config.groups, deep, **factory)
        self.output_proj = operations.Linear(deep, 2 * config.latent_channels, bias=False, **factory)

    def forward(self, video: Tensor, borders: Borders | None = None) -> Posterior:
        """Encode frames (B, 3, F, H, W), F = 6k + 1 at the published sizes.

        borders: what surrounds the frames in space, where they are a part of a picture.
        """
        stream = Stream.whole(borders)
        stem, *layers = self.layers
        x = per_position(stem, fourier_features(video, self.config.fourier))
        for layer in layers:
            x = layer(x, stream)
        x = F.silu(stream.borders.norm(self.output_norm, x))
        return Posterior(*per_position(self.output_proj, x).chunk(2, dim=1))
