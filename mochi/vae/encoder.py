"""AsymmVAE encoder: frames to a Gaussian over latents. State-dict names are the published ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import EncoderConfig
from .layers import ResBlock, added, causal_conv, per_position
from .stream import Borders, Stream

Step = Callable[[Tensor, Stream], Tensor]


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

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, C, T, H, W) -> the same shape. Frames before those of x are in the stream."""
        b, h, w = x.shape[0], *x.shape[3:]
        packed = self.qkv(x.movedim(1, -1).contiguous())  # channels last, as they mostly lie in memory
        packed = rearrange(packed, "b t h w (three heads d) -> three (b h w) heads t d", three=3, d=self.head_dim)
        (q, k), v = F.normalize(packed[:2], dim=-1), packed[2]
        seen = stream.seen.setdefault(self, Seen())
        k, v = seen.with_those_before(k, v, stream.left)
        if stream.ends:
            del stream.seen[self]
        out = self.out(rearrange(attend(q, k, v), "(b h w) heads t d -> b t h w (heads d)", b=b, h=h, w=w))
        return out.movedim(-1, 1)


class Seen:
    """Keys and values of all frames so far, with room for those to come."""

    def __init__(self):
        self._memory: Tensor | None = None  # (2, pixels, heads, frames, d)
        self._frames = 0

    def with_those_before(self, k: Tensor, v: Tensor, left: int) -> tuple[Tensor, Tensor]:
        """Keys and values (pixels, heads, all frames so far, d), those of the latest, k and v, among them.

        left: pieces of the video that are still to come, as far as is known; they are as long as this one.
        """
        if self._frames == 0 and left == 0:
            return k, v
        pixels, heads, new, d = k.shape
        frames = self._frames + new
        if self._memory is None or frames > self._memory.shape[3]:
            # The first piece is shorter than the others: it says nothing of their length.
            room = frames + (left * new if self._frames else 0)
            grown = k.new_empty(2, pixels, heads, room, d)
            if self._memory is not None:
                grown[..., : self._frames, :] = self._memory[..., : self._frames, :]
            self._memory = grown
        for memory, latest in zip(self._memory, (k, v), strict=True):
            memory[:, :, self._frames : frames] = latest
        self._frames = frames
        k, v = self._memory[..., :frames, :]
        return k, v

    def numel(self) -> int:
        """How many values it keeps."""
        return 0 if self._memory is None else self._memory[..., : self._frames, :].numel()


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q (pixels, heads, T, d), the last T of all frames, to k and v (pixels, heads, all, d)."""
    frames, seen = q.shape[2], k.shape[2]
    future = torch.ones(frames, seen, dtype=torch.bool, device=q.device).triu(1 + seen - frames)
    if q.device.type == "cpu":  # where torch's own is made for few and long sequences, and these are many and short
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
        return torch.matmul(scores.masked_fill(future, -torch.inf).softmax(-1), v)
    # Some CUDA kernels take at most 65535 rows of a batch.
    parts = zip(q.split(32768), k.split(32768), v.split(32768), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part, attn_mask=~future) for part in parts])


def kept_values(config: EncoderConfig) -> float:
    """Values kept for each pixel of each frame at the peak of `in_pieces`: the video as a stage with attention has it,
    and one block's keys and values."""
    kept, shrunk = 0.0, 1
    stages = zip(config.attention, (1, *config.temporal, 1), (1, *config.spatial, 1), strict=True)
    for (attends, time, space), width in zip(stages, (*config.widths, config.widths[-1]), strict=True):
        shrunk *= time * space * space
        kept = max(kept, attends * 3 * width / shrunk)
    return kept


class AttentionBlock(nn.Module):
    """`x + attn(norm(x))`."""

    def __init__(self, dim: int, config: EncoderConfig, operations: Any, **factory: Any):
        super().__init__()
        self.norm = operations.GroupNorm(config.groups, dim, **factory)
        self.attn = TemporalAttention(dim, config.attention_head_dim, operations, **factory)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return added(x, self.attn(stream.borders.norm(self.norm, x), stream))


class DownStage(nn.Module):
    """A convolution whose kernel is its stride, then residual blocks."""

    def __init__(
        self, dim: int, out: int, time: int, space: int, blocks: list[nn.Module], operations: Any, **factory: Any
    ):
        super().__init__()
        kernel = (time, space, space)
        shrink = operations.Conv3d(dim, out, kernel_size=kernel, stride=kernel, **factory)
        self.layers = nn.ModuleList([shrink, *blocks])

    def shrink(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, dim, T, H, W) -> (B, out, (T-1)/time + 1, H/space, W/space)."""
        return causal_conv(self.layers[0], x, stream)


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

    def forward(self, video: Tensor, stream: Stream | None = None) -> Posterior:
        """Encode frames (B, 3, F, H, W), F = 6k + 1 at the published sizes.

        stream: what surrounds the frames, where they are a piece of a video: then its first piece has 6k + 1 of them,
        the others 6k.
        """
        stream = Stream.whole() if stream is None else stream
        x = self._stem(video)
        for step in self._steps():
            x = step(x, stream)
        return self._posterior(x, stream.borders)

    def in_pieces(
        self,
        video: Tensor,
        chunk: int = 1,
        borders: Borders | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> Posterior:
        """What `forward` gives, with the memory of `chunk` latent frames at a time in each layer.

        Up to the first attention a piece goes through all layers, before the next one does. From there on all pieces
        go through a layer before any goes through the next: so that of all attentions only one remembers what it has
        seen, its keys and values, for the whole video.

        borders: what surrounds the frames in space, where they are a part of a picture. report: is told (done, in all)
        again and again; what it raises ends the work.
        """
        borders, steps = borders or Borders(), list(self._steps())
        attends = [step.attn_block is not None if isinstance(step, ResBlock) else False for step in steps]
        early = steps[: attends.index(True)] if True in attends else steps
        later = steps[len(early) :]
        sizes = self._pieces(video.shape[2], chunk)
        total = len(sizes) + len(later)
        most = self.config.base * max(sizes) * video.shape[3] * video.shape[4]

        pieces = []
        for piece in _through(list(video.split(sizes, dim=2)), borders, lambda x, _: self._stem(x), *early):
            pieces.append(piece)
            if report is not None:
                report(len(pieces), total)
        for done, step in enumerate(later, len(sizes) + 1):
            made = []
            # Deeper layers have less of each frame: they can have more frames at a time, for no more memory.
            for piece in _through(_merged(pieces, most), borders, step):
                made.append(piece)
                if report is not None:
                    report(done, total)
            pieces = made
        posteriors = [self._posterior(piece, borders) for piece in pieces]
        return Posterior(*(torch.cat(parts, dim=2) for parts in zip(*posteriors, strict=True)))

    def _stem(self, video: Tensor) -> Tensor:
        return per_position(self.layers[0], fourier_features(video, self.config.fourier))

    def _steps(self) -> Iterator[Step]:
        """All that lies between the stem and the posterior, one after the other."""
        for layer in self.layers[1:]:
            if isinstance(layer, DownStage):
                yield from (layer.shrink, *layer.layers[1:])
            else:
                yield layer

    def _posterior(self, x: Tensor, borders: Borders) -> Posterior:
        x = F.silu(borders.norm(self.output_norm, x))
        return Posterior(*per_position(self.output_proj, x).chunk(2, dim=1))

    def _pieces(self, frames: int, chunk: int) -> list[int]:
        """Frames of each piece of `chunk` latent frames: the first of all stands for itself, the others for several."""
        time = math.prod(self.config.temporal)
        first = min(frames, (chunk - 1) * time + 1)
        rest = frames - first
        return [first, *(min(chunk * time, rest - start) for start in range(0, rest, chunk * time))]


def _through(pieces: list[Tensor], borders: Borders, *steps: Step) -> Iterator[Tensor]:
    """The pieces of a video (B, C, T, H, W) behind some layers. The list is emptied, to free each as it is used."""
    stream = Stream(borders)
    for stream.left in reversed(range(len(pieces))):
        stream.ends = stream.left == 0
        x = pieces.pop(0)
        for step in steps:
            x = step(x, stream)
        stream.started = True
        yield x


def _merged(pieces: list[Tensor], most: int) -> list[Tensor]:
    """Neighbours put together, with up to `most` values each. The list is emptied, like above."""
    groups: list[list[Tensor]] = [[]]
    while pieces:
        if groups[-1] and sum(t.numel() for t in groups[-1]) + pieces[0].numel() > most:
            groups.append([])
        groups[-1].append(pieces.pop(0))
    return [group[0] if len(group) == 1 else torch.cat(group, dim=2) for group in groups]
