"""What a step moves between machines, from its sizes alone.

What ranks count as they send it (`Traffic.between`) is the same to the byte. docs/parallel.md has the formula in words.
N visual tokens, L text tokens, D_x the width of the visual stream, p ranks that share a pass.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ..config import DiTConfig
from .machines import machine_of_each
from .split import Split, shares_of


class PassSize(NamedTuple):
    """Of one forward pass. text: tokens of its longest prompt. skip: numbers of blocks that it leaves out."""

    text: int
    skip: Collection[int] = ()


def bytes_between(
    config: DiTConfig,
    latents: Sequence[int],
    passes: Sequence[PassSize],
    split: Split,
    machines: Sequence[int],
    itemsize: int,
) -> dict[int, int]:
    """Bytes that leave each machine for others in a step, by the machine's number. Without a step cache.

    Args:
        latents: their shape, (B, 12, T, H, W).
        machines: the number of the machine of each rank; empty where all are on one.
        itemsize: bytes of a value, as the network computes.
    """
    machines = machine_of_each(machines, split.ranks)
    leaving = dict.fromkeys(machines, 0)
    p = split.ulysses_degree
    for first in range(0, len(passes), split.cfg_degree):
        together = passes[first : first + split.cfg_degree]
        for rank, machine in enumerate(machines):
            group, within = divmod(rank, p)
            one = together[min(group, len(together) - 1)]
            mates = machines[group * p : (group + 1) * p]
            distant = [other for other in range(p) if mates[other] != machine]
            leaving[machine] += itemsize * latents[0] * _of_pass(config, latents, one, p, within, distant)
            if len(together) > 1:
                counterparts = sum(other != machine for other in machines[within::p])
                leaving[machine] += itemsize * counterparts * _of_prediction(latents, split, machines, within)
    return leaving


def _of_pass(
    config: DiTConfig, latents: Sequence[int], one: PassSize, p: int, within: int, distant: Sequence[int]
) -> int:
    """Values of a sample that a rank sends to `distant` ones: q, k, v out and the result back, for each block; the
    text's result of its heads, for each block that reads it, all but the last; and what its tokens become."""
    tokens = shares_of(latents[2] * math.prod(-(-side // config.patch_size) for side in latents[3:]), p)
    run = [block for block in range(config.depth) if block not in one.skip]
    read_text = len(run) - (config.depth - 1 in run)
    of_heads = len(run) * sum(3 * tokens[within] + tokens[other] for other in distant)
    of_heads += read_text * one.text * len(distant)
    return of_heads * config.hidden_x // p + tokens[0] * config.patch_size**2 * config.channels * len(distant)


def _of_prediction(latents: Sequence[int], split: Split, machines: Sequence[int], within: int) -> int:
    """Values of a prediction that a rank sends to each counterpart: a share, where its machine has the whole."""
    values = math.prod(latents)
    return values if split.crosses(machines) else shares_of(values, split.ulysses_degree)[within]


def warning_of(split: Split, leaving: Mapping[int, int], bandwidth: float) -> str:
    """What a split in which Ulysses crosses machines costs in a step, in words.

    Args:
        leaving: see `bytes_between`.
        bandwidth: bytes a second that a machine sends to others while it receives as many.
    """
    return (
        f"{split} spreads forward passes over machines: a step moves {_size(sum(leaving.values()))} between them, "
        f"which takes {max(leaving.values()) / bandwidth:.2g} s at the {_size(bandwidth)}/s that were measured. With "
        "guidance and ulysses on auto a pass stays inside a machine, and predictions alone cross."
    )


def _size(nbytes: float) -> str:
    unit, name = (1e9, "GB") if nbytes >= 1e9 else (1e6, "MB") if nbytes >= 1e6 else (1e3, "kB")
    return f"{nbytes / unit:.3g} {name}"
