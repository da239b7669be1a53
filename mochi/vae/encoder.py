"""AsymmVAE encoder: frames to a Gaussian over latents. State-dict names are the published ones."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import EncoderConfig
from .cpu import CpuOperations
from .layers import ResBlock, added, causal_conv, per_position
from .stream import Borders, Stream, piece_sizes

Step = Callable[[Tensor, Stream], Tensor]

Report = Callable[[int, int], None]
"""Is told (done, in all)."""


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
        """All frames (B, C, T, H, W) of any part of a picture -> the same shape."""
        b, h, w = x.shape[0], *x.shape[3:]
        packed = self.qkv(x.movedim(1, -1).contiguous())  # channels last, as they mostly lie in memory
        packed = rearrange(packed, "b t h w (three heads d) -> three (b h w) heads t d", three=3, d=self.head_dim)
        (q, k), v = F.normalize(packed[:2], dim=-1), packed[2]
        out = self.out(rearrange(attend(q, k, v), "(b h w) heads t d -> b t h w (heads d)", b=b, h=h, w=w))
        return out.movedim(-1, 1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention, each (pixels, heads, T, d)."""
    if q.device.type == "cpu":  # torch's own kernel there is for few, long sequences; these are many and short
        frames = q.shape[2]
        future = torch.ones(frames, frames, dtype=torch.bool, device=q.device).triu(1)
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
        return torch.matmul(scores.masked_fill_(future, -torch.inf).softmax(-1), v)
    # Some CUDA kernels take at most 65535 rows of a batch.
    parts = zip(q.split(32768), k.split(32768), v.split(32768), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part, is_causal=True) for part in parts])


class AttentionBlock(nn.Module):
    """`x + attn(norm(x))`."""

    def __init__(self, dim: int, config: EncoderConfig, operations: Any, **factory: Any):
        super().__init__()
        self.norm = operations.GroupNorm(config.groups, dim, **factory)
        self.attn = TemporalAttention(dim, config.attention_head_dim, operations, **factory)

    def forward(self, x: Tensor, borders: Borders) -> Tensor:
        """All frames (B, C, T, H, W) -> the same shape."""
        return added(x, self.attn(borders.norm(self.norm, x)))

    def in_place(self, pieces: list[Tensor], borders: Borders, most: int) -> Iterator[None]:
        """Apply it to all frames, which lie in pieces along time; yields again and again on the way.

        Frames are normed as wholes. Attention sees one pixel at a time, so it gets some rows of all frames, of which it
        makes up to `most` values: its queries, keys and scores never exist for the whole video.
        """
        normed = []
        for piece in pieces:
            normed.append(borders.norm(self.norm, piece))
            yield
        lengths = [piece.shape[2] for piece in pieces]
        b, c, _, height, width = pieces[0].shape
        values_in_row = b * width * sum(lengths) * (6 * c + 2 * sum(lengths) * c // self.attn.head_dim)
        rows = max(1, most // values_in_row)
        for top in range(0, height, rows):
            branch = self.attn(torch.cat([frames[:, :, :, top : top + rows] for frames in normed], dim=2))
            for piece, part in zip(pieces, branch.split(lengths, dim=2), strict=True):
                piece[:, :, :, top : top + rows] += part
            yield


def kept_values(config: EncoderConfig) -> float:
    """Values that `in_pieces` keeps at its peak, for each pixel of each frame.

    They are the video as a stage with attention gets it, once as it is and once normed.
    """
    kept, shrunk = 0.0, 1
    stages = zip(config.attention, (1, *config.temporal, 1), (1, *config.spatial, 1), strict=True)
    for (attends, time, space), width in zip(stages, (*config.widths, config.widths[-1]), strict=True):
        shrunk *= time * space * space
        kept = max(kept, attends * 2 * width / shrunk)
    return kept


class DownStage(nn.Module):
    """A convolution whose kernel is its stride, then residual blocks."""

    def __init__(
        self, dim: int, out: int, time: int, space: int, blocks: list[nn.Module], operations: Any, **factory: Any
    ):
        super().__init__()
        kernel = (time, space, space)
        shrink = operations.Conv3d(dim, out, kernel_size=kernel, stride=kernel, **factory)
        self.layers = nn.ModuleList([shrink, *blocks])


class Encoder(nn.Module):
    """Frames (B, 3, F, H, W) in -1 to 1 -> Posterior of the VAE latents (B, 12, T, h, w)."""

    def __init__(self, config: EncoderConfig, operations: Any = CpuOperations, **factory: Any):
        # factory: dtype and device of the parameters, as torch's layers take them.
        super().__init__()
        self.config = config
        shallow, *_, deep = widths = config.widths

        def res_block(dim: int, attends: bool) -> ResBlock:
            attention = AttentionBlock(dim, config, operations, **factory) if attends else None
            return ResBlock(dim, config.groups, operations, attention, **factory)

        def res_blocks(dim: int, count: int, attends: bool) -> list[nn.Module]:
            return [res_block(dim, attends) for _ in range(count)]

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
        x = self._stem(video)
        for step, attention in self._steps():
            x = step(x, stream)
            x = x if attention is None else attention(x, stream.borders)
        return self._posterior(x, stream.borders)

    def in_pieces(
        self, video: Tensor, chunk: int = 1, borders: Borders | None = None, report: Report | None = None
    ) -> Posterior:
        """The result of `forward`, with the memory of `chunk` latent frames at a time in each layer.

        Before the first attention, each piece goes through all layers by itself. From there on all pieces go through
        one layer before any goes through the next, since an attention sees the whole video. What is left of the video
        at that depth is kept, once as it is and once normed.

        Args:
            borders: what surrounds the frames in space, where they are a part of a picture.
            report: is told (done, in all) again and again. What it raises ends the work.
        """
        borders, report = borders or Borders(), report or (lambda done, total: None)
        steps = list(self._steps())
        early = next((i for i, (_, attention) in enumerate(steps) if attention is not None), len(steps))
        # The first of all frames has a latent frame to itself, of the others several share one.
        time = math.prod(self.config.temporal)
        sizes = piece_sizes(video.shape[2], chunk * time, lead=time - 1)
        total = len(sizes) + len(steps) - early
        most = self.config.base * max(sizes) * video.shape[3] * video.shape[4]

        pieces = []
        first = (lambda x, _: self._stem(x), *(step for step, _ in steps[:early]))
        for piece in _through(list(video.split(sizes, dim=2)), borders, *first):
            pieces.append(piece)
            report(len(pieces), total)
        for done, (step, attention) in enumerate(steps[early:], len(sizes)):
            made = []
            # Deeper layers have less of each frame: they can have more frames at a time, for no more memory.
            for piece in _through(_merged(pieces, most), borders, step):
                made.append(piece)
                report(done, total)
            pieces = made
            for _ in attention.in_place(pieces, borders, most) if attention is not None else ():
                report(done, total)
        posteriors = [self._posterior(piece, borders) for piece in pieces]
        report(total, total)
        return Posterior(*(torch.cat(parts, dim=2) for parts in zip(*posteriors, strict=True)))

    def _stem(self, video: Tensor) -> Tensor:
        return per_position(self.layers[0], fourier_features(video, self.config.fourier))

    def _steps(self) -> Iterator[tuple[Step, AttentionBlock | None]]:
        """The layers between the stem and the posterior, in order, each with the attention after it, if any."""
        for stage in self.layers[1:]:
            for layer in stage.layers if isinstance(stage, DownStage) else [stage]:
                if isinstance(layer, nn.Conv3d):
                    yield partial(causal_conv, layer), None
                elif isinstance(layer, ResBlock):
                    attention = layer.attn_block
                    yield layer, attention if isinstance(attention, AttentionBlock) else None

    def _posterior(self, x: Tensor, borders: Borders) -> Posterior:
        x = F.silu(borders.norm(self.output_norm, x))
        return Posterior(*per_position(self.output_proj, x).chunk(2, dim=1))


def _through(pieces: list[Tensor], borders: Borders, *steps: Step) -> Iterator[Tensor]:
    """The pieces of a video (B, C, T, H, W) after some layers. The list is emptied, to free each once it is used."""
    stream = Stream(borders)
    while pieces:
        x = pieces.pop(0)
        stream.ends = not pieces
        for step in steps:
            x = step(x, stream)
        stream.started = True
        yield x


def _merged(pieces: list[Tensor], most: int) -> list[Tensor]:
    """Neighbouring pieces joined, with up to `most` values each. The list is emptied, as in `_through`."""
    groups: list[list[Tensor]] = [[]]
    while pieces:
        if groups[-1] and sum(t.numel() for t in groups[-1]) + pieces[0].numel() > most:
            groups.append([])
        groups[-1].append(pieces.pop(0))
    return [group[0] if len(group) == 1 else torch.cat(group, dim=2) for group in groups]
