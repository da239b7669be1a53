"""Prompts on a rank. Each is sent once, encoded once, and used at every step."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...dit import TextContext
from ..protocol import Rows, Texts


class Prompts:
    """The texts that a rank was sent, as its denoiser has encoded them."""

    def __init__(self, encode: Callable[[Tensor, Tensor], TextContext]):
        self._encode = encode
        self._texts: dict[int, TextContext] = {}
        self._put_together: dict[tuple, TextContext] = {}

    def read(self, texts: Texts, forget: Sequence[int]) -> None:
        """Encode new texts, and forget others, by number."""
        for number in forget:
            if self._texts.pop(number, None) is not None:
                self._put_together.clear()
        for number, (features, mask) in texts.items():
            self._texts[number] = self._encode(features, mask.bool())

    def context(self, rows: Rows) -> TextContext:
        """The texts of a batch as the denoiser takes them."""
        key = tuple(rows)
        if key not in self._put_together:
            self._put_together[key] = join([(self._texts[number], row) for number, row in key])
        return self._put_together[key]

    def forget_all(self) -> None:
        self._texts.clear()
        self._put_together.clear()


def join(rows: Sequence[tuple[TextContext, int]]) -> TextContext:
    """A batch of single prompts, padded to the longest: a row of each of these contexts."""
    lengths = tuple(text.lengths[row] for text, row in rows)
    longest = max(lengths)
    tokens = [
        F.pad(text.tokens[row, :length], (0, 0, 0, longest - length))
        for (text, row), length in zip(rows, lengths, strict=True)
    ]
    captions = [text.caption[row] for text, row in rows]
    return TextContext(torch.stack(captions), torch.stack(tokens), lengths)
