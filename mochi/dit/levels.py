"""A noise level for each latent frame: what modulates a token is computed once a frame, and applied frame by frame.

After "Redefining Temporal Modeling in Video Diffusion" (arXiv 2410.03160) and Pusa V0.5, a Mochi that was trained so.
B batch, T latent frames, N visual tokens of all frames, n of them on this device, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor


class FrameVectors(NamedTuple):
    """The conditioning vectors of a forward pass in which frames have noise levels of their own.

    Attributes:
        frames: silu(time + caption) of each frame, (B, T, D).
        text: silu of their mean before it, (B, D): the text has no frame.
        each: tokens of a frame, N / T.
        first: the number, among all N, of the first token on this device.
        frame_of: for compiled code, in place of the two numbers: the frame of each token on this device, (n,).
    """

    frames: Tensor
    text: Tensor
    each: int
    first: int = 0
    frame_of: Tensor | None = None

    def rows(self, rows: Any) -> FrameVectors:
        """Those of some samples of the batch."""
        return self._replace(frames=self.frames[rows], text=self.text[rows])

    def for_compiled(self, tokens: int) -> FrameVectors:
        """The same for so many tokens, without a number in it, for each value of which code would be compiled anew."""
        numbers = torch.arange(self.first, self.first + tokens, device=self.frames.device)
        return self._replace(each=0, first=0, frame_of=numbers // self.each)


Vectors = Tensor | FrameVectors
"""silu(time + caption) (B, D), or one for each frame."""


def alike(sigma: Tensor) -> bool:
    """Whether each sample has one level for all its frames (B, T), so that the plain way computes the same bits.

    A GPU is not asked, since the host would wait for its answer: there the two ways differ by rounding.
    """
    return sigma.device.type == "cpu" and bool((sigma == sigma[:, :1]).all())


def rows_of(c: Vectors, rows: Any) -> Vectors:
    """The vectors of some samples of a batch."""
    return c.rows(rows) if isinstance(c, FrameVectors) else c[rows]


def of_tokens(c: Vectors) -> Tensor:
    """What modulates the visual tokens: (B, D), or (B, T, D)."""
    return c.frames if isinstance(c, FrameVectors) else c


def of_text(c: Vectors) -> Tensor:
    """What modulates the text: (B, D)."""
    return c.text if isinstance(c, FrameVectors) else c


def per_frame(formula: Callable[..., Any], c: Vectors, tokens: Sequence[Tensor], modulation: Sequence[Tensor]) -> Any:
    """`formula(*tokens, *modulation)`, where each token gets the modulation of its frame.

    Args:
        formula: takes tokens (B, n, D) and one vector a sample (B, D), and gives a tensor with the tokens in its second
            axis, or several.
        c: says which frames the tokens are of.
        tokens: (B, n, D) each.
        modulation: (B, D) each, or (B, T, D) where frames have levels of their own.
    """
    if not isinstance(c, FrameVectors):
        return formula(*tokens, *modulation)
    if c.frame_of is not None and torch.compiler.is_compiling():  # such code reads what modulates a token as it goes
        return _folded(formula, tokens, [m[:, c.frame_of] for m in modulation])
    cut = _pieces(c.first, tokens[0].shape[1], c.each) if c.frame_of is None else _runs(c.frame_of)
    pieces = [
        _folded(formula, [t[:, tokens_of] for t in tokens], [m[:, frames] for m in modulation])
        for tokens_of, frames in cut
    ]
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], Tensor):
        return torch.cat(pieces, dim=1)
    return tuple(torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))


def _folded(formula: Callable[..., Any], tokens: Sequence[Tensor], modulation: Sequence[Tensor]) -> Any:
    """The formula for whole frames, a part of one, or single tokens, with these as samples of the batch."""
    batch, frames = modulation[0].shape[:2]

    def unfold(t: Tensor) -> Tensor:
        return t.unflatten(0, (batch, frames)).flatten(1, 2)

    out = formula(*(t.unflatten(1, (frames, -1)).flatten(0, 1) for t in tokens), *(m.flatten(0, 1) for m in modulation))
    return unfold(out) if isinstance(out, Tensor) else tuple(map(unfold, out))


def _runs(frame_of: Tensor) -> Iterator[tuple[slice, slice]]:
    """Tokens and their frame, one frame after the other, where a block was to be compiled and could not be."""
    frames, counts = frame_of.unique_consecutive(return_counts=True)
    start = 0
    for frame, count in zip(frames.tolist(), counts.tolist(), strict=True):
        yield slice(start, start + count), slice(frame, frame + 1)
        start += count


def _pieces(first: int, count: int, each: int) -> Iterator[tuple[slice, slice]]:
    """Tokens and their frames: the end of a frame, whole frames, and the beginning of one.

    The `count` tokens from number `first` on are cut so that each piece has as many tokens of each of its frames.
    """
    start, stop = first, first + count
    whole = -(-start // each), stop // each
    if whole[0] > whole[1]:  # all within one frame
        bounds = [start, stop]
    else:
        bounds = sorted({start, whole[0] * each, whole[1] * each, stop})
    for a, b in pairwise(bounds):
        yield slice(a - first, b - first), slice(a // each, -(-b // each))
    if start == stop:
        frame = max(start - 1, 0) // each  # no token at all: of any frame
        yield slice(0, 0), slice(frame, frame + 1)
