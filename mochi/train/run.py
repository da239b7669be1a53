"""The steps of a run: batches, gradients over all ranks, the optimiser, and what is told of each."""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import LatentStats
from ..errors import MochiError
from .data import Example
from .job import Stepped, Watcher
from .network import Network
from .objective import Batch, draw, keeps_of
from .optimizer import Optimizer
from .order import Indices, Order, generator_of
from .settings import TrainSettings

BINS = 10
"""Of noise levels, in the log."""


class Run:
    """Trains the LoRA of a network on clips, step by step.

    Attributes:
        by_level: sums of the losses of clips whose noise level is in each of BINS, and their number, (2, BINS), since
            it was last reset.
    """

    def __init__(
        self,
        network: Network,
        examples: Sequence[Example],
        stats: LatentStats,
        settings: TrainSettings,
        others: Sequence[Tensor] = (),
    ):
        """others: features of prompts that are not of the clips, see `draw`."""
        self._others = others
        self._network, self._examples, self._stats, self._settings = network, examples, stats, settings
        self._order = Order([example.shape for example in examples], settings.batch, settings.seed)
        self.optimizer = Optimizer(network.parameters, settings)
        self.by_level = torch.zeros(2, BINS)
        self._pace = 0.0

    @property
    def told(self) -> list[list[float]]:
        """`by_level`, as a checkpoint has it."""
        return self.by_level.tolist()

    @told.setter
    def told(self, values: list[list[float]]) -> None:
        self.by_level = torch.tensor(values)

    @property
    def done(self) -> bool:
        return self.optimizer.step >= self._settings.steps

    def step(self, watcher: Watcher) -> tuple[Stepped, bool]:
        """A step on all ranks. Returns what is told of it, and whether somebody wants the run to end.

        Raises MochiError, with nothing changed, where the loss or a gradient is no number.
        """
        ranks, settings = self._network.ranks, self._settings
        started, number = time.monotonic(), self.optimizer.step
        losses, by_level = torch.zeros(ranks.groups), torch.zeros(2, BINS)
        for k in range(settings.accumulate):
            keeps = keeps_of(settings, number, k) if self._others else 0
            each, sigma = self._backward(self._place(k, ranks.group), keeps)
            losses[ranks.group] += each.mean().item() / settings.accumulate
            bins = (sigma * BINS).long().clamp(max=BINS - 1)
            by_level[0].index_add_(0, bins, each)
            by_level[1].index_add_(0, bins, torch.ones_like(each))
        told = [*losses.tolist(), float(watcher.cancelled()), *by_level.flatten().tolist()]
        told = ranks.average(self.optimizer.gradients, *told)
        losses, ends = torch.tensor(told[: ranks.groups]) * ranks.groups, told[ranks.groups] > 0
        self._check(losses, number)
        lr, length = self.optimizer.update()
        if not math.isfinite(length):
            raise MochiError(f"a gradient is {length} in step {number + 1}, {self._on_clips(range(ranks.groups))}")
        self.by_level += torch.tensor(told[ranks.groups + 1 :]).view(2, BINS) * ranks.groups
        taken = time.monotonic() - started
        # The first step also warms up, so that it counts only until there is a second one.
        self._pace = taken if not self._pace or number == 1 else 0.9 * self._pace + 0.1 * taken
        left = (settings.steps - self.optimizer.step) * self._pace
        clips = tuple(self._examples[i].name for i in self._clips(number))
        device = ranks.device
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        loss = losses.mean().item()
        return Stepped(number + 1, settings.steps, loss, lr, length, taken, left, memory, clips), ends

    def levels(self) -> dict[str, float]:
        """The mean loss by noise level since this was last asked, such as {"loss at 0.3": 0.8}."""
        sums, counts = self.by_level
        self.by_level = torch.zeros(2, BINS)
        return {f"loss at {(i + 0.5) / BINS:.2f}": (sums[i] / counts[i]).item() for i in range(BINS) if counts[i] > 0}

    def _place(self, k: int, group: int) -> int:
        """The number, counted over the run, of the k-th batch of this step that a group takes."""
        groups = self._network.ranks.groups
        return (self.optimizer.step * self._settings.accumulate + k) * groups + group

    def _backward(self, place: int, keeps: int) -> tuple[Tensor, Tensor]:
        """Add the gradients of a batch. Returns the loss and the noise level of each of its clips, on the CPU."""
        settings = self._settings
        if settings.dropout:
            share = self._network.ranks.rank % self._network.ranks.ulysses  # whose tokens are others
            torch.manual_seed(generator_of(settings.seed, -4, place, share).initial_seed())
        batch = self._batch(self._order[place], place * settings.batch, keeps)
        each = self._network.loss(batch)
        (each.mean() / settings.accumulate).backward()
        return each.detach().float().cpu(), batch.sigma

    def _batch(self, indices: Indices, first: int, keeps: int) -> Batch:
        examples = [self._examples[i] for i in indices]
        posteriors = [example.posterior() for example in examples]
        captions = [example.features() for example in examples]
        return draw(posteriors, captions, self._stats, self._settings, first, self._others, keeps)

    def _clips(self, step: int, groups: Sequence[int] | None = None) -> list[int]:
        """The clips that a step trains on, all or those of some groups."""
        found: list[int] = []
        for group in range(self._network.ranks.groups) if groups is None else groups:
            for k in range(self._settings.accumulate):
                place = (step * self._settings.accumulate + k) * self._network.ranks.groups + group
                found += self._order[place]
        return found

    def _on_clips(self, groups: Sequence[int]) -> str:
        names = dict.fromkeys(self._examples[i].name for i in self._clips(self.optimizer.step, groups))
        return (
            f"on {', '.join(names)}. Nothing was changed by it, and the last checkpoint is kept. Choose a lower "
            "learning rate, or leave the clip out if it is damaged"
        )

    def _check(self, losses: Tensor, number: int) -> None:
        """Raise MochiError where the loss of a group is no number."""
        wrong = [group for group, loss in enumerate(losses.tolist()) if not math.isfinite(loss)]
        if wrong:
            raise MochiError(f"the loss is {losses[wrong[0]].item()} in step {number + 1}, {self._on_clips(wrong)}")
