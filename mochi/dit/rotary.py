"""Learned rotary positions for (frame, row, column).

Every head has its own frequencies for each of the three axes. Source: `pos_frequencies` of the
published checkpoint, and its grid of positions.
"""

import torch
from torch import Tensor


def rotary_table(frequencies: Tensor, frames: int, rows: int, columns: int, area: float) -> Tensor:
    """Cosine and sine of the angle of each token, head and channel pair: (N, heads, d/2, 2), float32.

    `frequencies` is (3, heads, d/2). Tokens run frame, row, column. Rows and columns are centred and scaled so that the
    grid covers `area`, whatever its size; frames count from 0.
    """
    frequencies = frequencies.float()
    scale = (area / (rows * columns)) ** 0.5

    def positions(count: int) -> Tensor:
        return torch.arange(count, dtype=torch.float32, device=frequencies.device)

    def angles(axis: int, position: Tensor) -> Tensor:
        return position[:, None, None] * frequencies[axis]

    t = angles(0, positions(frames))
    r = angles(1, (positions(rows) + 0.5 - rows / 2) * scale)
    c = angles(2, (positions(columns) + 0.5 - columns / 2) * scale)
    angle = (t[:, None, None] + r[None, :, None] + c[None, None, :]).flatten(0, 2)
    return torch.view_as_real(torch.polar(angle.new_ones(()), angle))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn channel pairs (2i, 2i+1) of x (B, N, heads, d), float32, by the angles of a table. Uses the memory of x."""
    pairs = x.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # compiled code fuses the real numbers, and knows no complex ones
        (a, b), (cos, sin) = pairs.unbind(-1), rotary.unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    torch.view_as_complex(pairs).mul_(torch.view_as_complex(rotary))
    return x
