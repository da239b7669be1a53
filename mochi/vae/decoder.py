"""AsymmVAE decoder: latents to frames. State-dict names are the published ones.

T latent frames become F = 6 (T - 1) + 1 frames at the published sizes, 8 times as high and wide. The network
is causal and its norms see single frames, so a video can be decoded piece by piece, in memory that does not
depend on its length: `stream` gives the very frames that `forward` does.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import DecoderConfig
from .cpu import CpuOperations
from .layers import ResBlock, per_position
from .stream import Borders, Stream, piece_sizes

DEEP = 4
"""The least number of latent frames that go through the deep layers at a time. The weights of these layers are read and
reordered for each pass, which takes as long as computing one frame with them."""

FINE = 2
"""Frames that go through the other layers at a time, of those that the deep layers have made, three of a latent frame.
Two take less memory than three, and stay in a CPU's cache."""


def depth_to_space_time(x: Tensor, time: int, space: int, start: bool = True) -> Tensor:
    """(B, c*t*s*s, T, H, W) -> (B, c, T*t - (t-1), H*s, W*s), or all T*t frames where it is not the start.

    A causal video starts with a single frame, so the first `t - 1` of the expanded frames have no
    content of their own and are dropped.
    """
    # Channels last while it is copied, so that it is copied once.
    x = rearrange(x, "b (c t p q) T H W -> b (T t) (H p) (W q) c", t=time, p=space, q=space)
    return x[:, time - 1 if start else 0 :].movedim(-1, 1)


def deep_chunk(chunk: int) -> int:
    """Latent frames that go through the deep layers at a time: a multiple of `chunk`."""
    return chunk * -(-DEEP // chunk)


def frames_in_piece(config: DecoderConfig, chunk: int, in_strips: bool) -> int:
    """Frames that go through the other layers at a time, of those that the deep layers have made.

    Args:
        in_strips: whether other ranks decode the rest of the picture. Each piece then costs an exchange at each layer,
            and the frames of a latent frame stay together.
    """
    time = config.temporal[-1]
    return chunk * time if in_strips or chunk > 1 else min(FINE, time)


class UpStage(nn.Module):
    """Residual blocks, then a Linear whose channels unfold into time and space."""

    def __init__(
        self, dim: int, out: int, blocks: int, time: int, space: int, groups: int, operations: Any, **factory: Any
    ):
        super().__init__()
        self.time, self.space = time, space
        self.blocks = nn.ModuleList(ResBlock(dim, groups, operations, **factory) for _ in range(blocks))
        self.proj = operations.Linear(dim, out * time * space * space, **factory)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, dim, T, H, W) -> (B, out, T*time - (time-1), H*space, W*space)."""
        for block in self.blocks:
            x = block(x, stream)
        return depth_to_space_time(per_position(self.proj, x), self.time, self.space, not stream.started)


class Decoder(nn.Module):
    """VAE latents (B, 12, T, h, w) -> frames (B, 3, F, H, W), about -1 to 1."""

    def __init__(self, config: DecoderConfig, operations: Any = CpuOperations, **factory: Any):
        # factory: dtype and device of the parameters, as torch's layers take them.
        super().__init__()
        self.config = config
        groups = config.groups
        shallow, *_, deep = widths = config.widths

        def res_blocks(dim: int, count: int) -> list[nn.Module]:
            return [ResBlock(dim, groups, operations, **factory) for _ in range(count)]

        expand = operations.Conv3d(config.latent_channels, deep, kernel_size=1, **factory)
        stages: list[nn.Module] = [nn.ModuleList([expand, *res_blocks(deep, config.res_blocks[-1])])]
        for i in reversed(range(len(config.temporal))):
            time, space, count = config.temporal[i], config.spatial[i], config.res_blocks[i + 1]
            stages.append(UpStage(widths[i + 1], widths[i], count, time, space, groups, operations, **factory))
        stages.append(nn.ModuleList(res_blocks(shallow, config.res_blocks[0])))
        self.blocks = nn.ModuleList(stages)
        self.output_proj = operations.Linear(shallow, 3, **factory)

    def forward(self, z: Tensor, stream: Stream | None = None) -> Tensor:
        """Decode VAE latents (B, 12, T, h, w), in the dtype of the weights' computation.

        stream: what surrounds z, where it is a piece of a video.
        """
        stream = Stream.whole() if stream is None else stream
        return self._shallow(self._deep(z, stream), stream)

    def _deep(self, z: Tensor, stream: Stream) -> Tensor:
        """The layers at the size of the latents, and their first expansion: most weights, few activations."""
        stem, first, *_ = self.blocks
        expand, *stem = stem.children()
        x = expand(z.contiguous(memory_format=torch.channels_last_3d))
        for layer in (*stem, first):
            x = layer(x, stream)
        return x

    def _shallow(self, x: Tensor, stream: Stream) -> Tensor:
        """All that follows: few weights, many activations."""
        _, _, *up, head = self.blocks
        for layer in (*up, *head.children()):
            x = layer(x, stream)
        return per_position(self.output_proj, F.silu(x))

    def stream(self, z: Tensor, chunk: int = 1, borders: Borders | None = None) -> Iterator[Tensor]:
        """Decode up to `chunk` latent frames at a time. The pieces, joined along time, are the whole video.

        borders: what surrounds z in space, where it is a part of a picture.
        """
        deep, shallow = Stream(borders), Stream(borders)
        each = frames_in_piece(self.config, chunk, in_strips=borders is not None)
        time = self.config.temporal[-1]
        parts = z.split(deep_chunk(chunk), dim=2)
        for i, part in enumerate(parts, 1):
            deep.ends = i == len(parts)
            x = self._deep(part, deep)
            # The first of all latent frames has become one frame.
            lead = time - 1 if each >= time and not deep.started else 0
            left = x.shape[2]
            for piece in x.split(piece_sizes(left, each, lead), dim=2):
                left -= piece.shape[2]
                shallow.ends = deep.ends and left == 0
                yield self._shallow(piece, shallow)
                shallow.started = True
            deep.started = True
