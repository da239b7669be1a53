"""TeaCache: a forward pass skips the blocks and repeats their last change, where its input hardly differs.

After Liu and others, "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model" (2024), with the numbers
that were published for Mochi. B samples, N visual tokens, D their width.
"""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .formulas import modulated_rms_norm
from .levels import Vectors, of_tokens, per_frame, rows_of
from .runner import PLAIN, BlockRunner

POLYNOMIAL = (-3512.41319, 811.675948, -60.9400215, 2.42429681, 0.00305291719)
"""A polynomial, highest power first, from the change of the first block's input to that of the last one's output."""

PEAK = 0.1076
"""Where the polynomial is greatest. Greater changes, to which it was not fitted, count as this one: it would fall below
zero."""

SAME_LEVEL = 1e-6
"""Noise levels that are closer count as equal, so that rounding to float32 makes no difference."""

Key = Hashable
"""Identifies a sample in all passes of a run: its prompt, place in the batch and size."""

Numbered = tuple[Key, int]
"""A sample, and how many passes it had before at the same noise level."""

Passes = Mapping[tuple[int, Key], bool]
"""Whether the blocks ran, for each step and sample of it."""


def rescaled(change: float) -> float:
    """The change of the output that a relative change of the input stands for. NaN, an unknown change, stays NaN."""
    total = 0.0
    for coefficient in POLYNOMIAL:
        total = total * min(change, PEAK) + coefficient
    return total


class CachePlan(NamedTuple):
    """The settings of a run's cache.

    Attributes:
        threshold: how much change may add up before the blocks run again; at 0 they always do.
        sigmas: the noise levels of the run, steps + 1 of them.
        start, end: between which fractions of the steps passes may be skipped. The first and the last step never are.
    """

    threshold: float
    sigmas: tuple[float, ...]
    start: float = 0.0
    end: float = 1.0

    def step_at(self, sigma: float) -> int:
        """The step, from 0, of a pass at this noise level."""
        return sum(level > sigma + SAME_LEVEL for level in self.sigmas)

    def may_skip(self, step: int) -> bool:
        steps = len(self.sigmas) - 1
        return 0 < step < steps - 1 and self.start * steps <= step < self.end * steps


@dataclass
class _Sample:
    """The state of a sample in the cache.

    Attributes:
        seen: the input (N, D) of the first block in its last pass.
        residual: what the blocks added (N, D) when they ran last.
        change: how much the input has changed since then.
    """

    seen: Tensor | None = None
    residual: Tensor | None = None
    change: float = 0.0

    def repeated(self, x: Tensor) -> Tensor:
        """x (N, D) with what the blocks added when they ran last."""
        return x if self.residual is None else x + self.residual


class StepCache:
    """The cache of one run, for any number of prompts and samples.

    Each sample decides for itself whether its blocks run, so that the result does not depend on which of them share a
    pass.
    """

    def __init__(self, plan: CachePlan):
        self.plan = plan
        self.passes: dict[tuple[int, Key], bool] = {}
        self._samples: dict[Numbered, _Sample] = {}
        self._sigma, self._at_sigma = math.nan, Counter[Key]()

    def around(self, keys: Sequence[Key], sigma: float, runner: BlockRunner = PLAIN) -> BlockRunner:
        """`runner` for one forward pass at this noise level, through the cache. keys: of the samples."""
        return _CachedPass(self, runner, self.plan.step_at(sigma), self._numbered(keys, sigma))

    def forget(self, keys: Collection[Key]) -> None:
        """Free what is kept of these samples: the next pass of each is computed."""
        self._samples = {key: sample for key, sample in self._samples.items() if key[0] not in keys}

    def first_input(self, block: nn.Module, x: Tensor, c: Vectors) -> Tensor:
        """The input of the first block's attention, for x (B, N, D)."""
        scale = block.get_submodule("mod_x")(of_tokens(c)).chunk(4, dim=-1)[0]
        return per_frame(modulated_rms_norm, c, [x], [scale])

    def total(self, sums: Tensor) -> Tensor:
        """Sums over the tokens of this device -> sums over all tokens, of which other ranks may have some."""
        return sums

    def decided(self, blocks: nn.ModuleList, run: bool, device: torch.device) -> None:
        """Called in each pass once it is decided whether any of its blocks run."""

    def _numbered(self, keys: Sequence[Key], sigma: float) -> list[Numbered]:
        """The samples, numbered by their passes at this noise level.

        A host's guidance may make a second pass with a changed network. A sampler of higher order makes one with other
        latents.
        """
        if sigma != self._sigma:
            self._sigma, self._at_sigma = sigma, Counter()
        numbered = [(key, self._at_sigma[key]) for key in keys]
        self._at_sigma.update(keys)
        return numbered

    def choose(self, step: int, keys: Sequence[Numbered], inputs: Tensor) -> tuple[list[_Sample], list[int]]:
        """What is kept of the samples of a pass, and the rows of those that the blocks must run for.

        inputs: what `first_input` gives for the pass.
        """
        samples = [self._samples.setdefault(key, _Sample()) for key in keys]
        changes = self._look_at(inputs, samples)
        rows = [row for row, sample in enumerate(samples) if not self._skips(sample, changes[row], step)]
        self.passes |= {(step, key): row in rows for row, key in enumerate(keys)}
        return samples, rows

    def _look_at(self, inputs: Tensor, samples: Sequence[_Sample]) -> list[float]:
        """How much each sample's input differs from that of its last pass, mean|a - b| / mean|b|; NaN in its first."""
        sums = inputs.new_zeros(len(samples), 2, dtype=torch.float32)
        for row, sample in enumerate(samples):
            if sample.seen is not None:
                sums[row, 0] = _absolute_sum(inputs[row] - sample.seen)
                sums[row, 1] = _absolute_sum(sample.seen)
            sample.seen = inputs[row]
        differs, before = self.total(sums).unbind(1)
        return (differs / before).tolist()

    def _skips(self, sample: _Sample, change: float, step: int) -> bool:
        sample.change += rescaled(change)
        if self.plan.may_skip(step) and sample.change < self.plan.threshold:  # NaN is not below it
            return True
        sample.change = 0.0
        return False


class _CachedPass(BlockRunner):
    """A runner with the cache around its blocks, for one forward pass."""

    def __init__(self, cache: StepCache, runner: BlockRunner, step: int, keys: Sequence[Numbered]):
        self._cache, self._runner, self._step, self._keys = cache, runner, step, keys

    def enter(self, tokens: Tensor) -> Tensor:
        return self._runner.enter(tokens)

    def first_token(self, tokens: int) -> int:
        return self._runner.first_token(tokens)

    def run(
        self, blocks: nn.ModuleList, x: Tensor, y: Tensor, c: Vectors, rotary: Tensor, text_lengths: Sequence[int]
    ) -> Tensor:
        """As the runner does. Only samples that need it go through the blocks."""
        samples, rows = self._cache.choose(self._step, self._keys, self._cache.first_input(blocks[0], x, c))
        self._cache.decided(blocks, bool(rows), x.device)
        computed: dict[int, Tensor] = {}
        if rows:
            some = slice(None) if len(rows) == len(samples) else rows
            lengths = tuple(text_lengths[row] for row in rows)
            out = self._runner.run(blocks, x[some], y[some], rows_of(c, some), rotary, lengths)
            for row, result in zip(rows, out, strict=True):
                samples[row].residual, computed[row] = result - x[row], result
            if len(rows) == len(samples):
                return out
        return torch.stack([computed[i] if i in computed else s.repeated(x[i]) for i, s in enumerate(samples)])

    def leave(self, tokens: Tensor) -> Tensor:
        return self._runner.leave(tokens)


def _absolute_sum(t: Tensor) -> Tensor:
    return torch.linalg.vector_norm(t, ord=1, dtype=torch.float32)


def in_words(passes: Passes) -> str:
    """Which steps of a run were computed, such as "TeaCache: computed 5 of 8 steps (1-3, 5, 8), 9 of 16 passes"."""
    steps = {step for step, _ in passes}
    computed = sorted({step + 1 for (step, _), run in passes.items() if run})
    ranges = [[step for _, step in group] for _, group in groupby(enumerate(computed), lambda pair: pair[1] - pair[0])]
    listed = ", ".join(str(a[0]) if len(a) == 1 else f"{a[0]}-{a[-1]}" for a in ranges)
    count = f"{sum(passes.values())} of {len(passes)} passes"
    return f"TeaCache: computed {len(computed)} of {len(steps)} steps ({listed}), {count}"
