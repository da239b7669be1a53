"""The settings of a training run, checked when they are put together."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ..errors import MochiError

Levels = Literal["uniform", "logit-normal"]
Recompute = Literal["blocks", "all but attention", "nothing"]

LEVELS: tuple[str, ...] = get_args(Levels)
RECOMPUTE: tuple[str, ...] = get_args(Recompute)


@dataclass(frozen=True)
class Rank:
    """The size of a LoRA on a kind of layer.

    Attributes:
        rank: of its factors; 0 where such layers have none.
        alpha: what the product of the factors is multiplied by is alpha / rank.
    """

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class TrainSettings:
    """How a LoRA is trained. Raises MochiError, naming the setting, on values that cannot be.

    The defaults are those of the published trainer.

    Attributes:
        steps: of the optimiser.
        batch: clips of one size that go through the model together.
        accumulate: batches of a step, for each group of GPUs that trains on clips of its own.
        lr: the learning rate after `warmup` steps; from there it falls to 0 by a cosine.
        weight_decay: of AdamW.
        clip: the longest gradient of a step; 0 where it is not shortened.
        ema: how much of the average of the weights stays in a step, for the weights that are written; 0: no average.
        attention, mlp: the LoRAs on qkv_x, qkv_y, proj_x and proj_y of each block, and on w1 and w2 of its MLPs.
        dropout: the share of a LoRA's inputs that are left out.
        levels: how noise levels are drawn: uniform in [0, 1], or the logistic function of a normal variable.
        level_mean, level_deviation: of that variable. A mean above 0 trains more on noise.
        caption_dropout: the share of captions that are left out, for guidance.
        keep: the share of clips that give way to other prompts, for which the model is held to what it predicts
            without the LoRA, so that it keeps what it can. 0: none.
        seed: of the LoRA, the order of the clips, noise, levels and dropout.
    """

    steps: int = 2000
    batch: int = 1
    accumulate: int = 1
    lr: float = 2e-4
    weight_decay: float = 0.01
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.0
    attention: Rank = Rank(16, 16.0)
    mlp: Rank = Rank(0, 16.0)
    dropout: float = 0.0
    levels: Levels = "uniform"
    level_mean: float = 0.0
    level_deviation: float = 1.0
    caption_dropout: float = 0.1
    keep: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "batch": 1, "accumulate": 1, "warmup": 0, "seed": 0}.items():
            value = getattr(self, name)
            _check(name, value, isinstance(value, int) and not isinstance(value, bool) and value >= least, f"{least}")
        for kind in ("attention", "mlp"):
            rank = getattr(self, kind)
            _check(f"{kind} rank", rank.rank, isinstance(rank.rank, int) and rank.rank >= 0, "0")
            _check(f"{kind} alpha", rank.alpha, math.isfinite(rank.alpha) and rank.alpha > 0, "0, and not 0")
        for name in ("lr", "level_deviation"):
            value = getattr(self, name)
            _check(name, value, math.isfinite(value) and value > 0, "0, and not 0")
        for name in ("weight_decay", "clip"):
            value = getattr(self, name)
            _check(name, value, math.isfinite(value) and value >= 0, "0")
        for name in ("ema", "dropout", "caption_dropout", "keep"):
            value = getattr(self, name)
            if not 0 <= value < 1 and not (name == "caption_dropout" and value == 1):
                raise MochiError(f"{name} is {value}, but must be from 0 to below 1")
        if not math.isfinite(self.level_mean):
            raise MochiError(f"level_mean is {self.level_mean}, but must be a number")
        if self.levels not in LEVELS:
            raise MochiError(f"levels is {self.levels!r}, but must be one of {', '.join(LEVELS)}")
        if not (self.attention.rank or self.mlp.rank):
            raise MochiError("both ranks are 0: there is nothing to train")

    def as_dict(self) -> dict[str, Any]:
        """Of numbers and texts, for JSON."""
        return asdict(self)


def _check(name: str, value: object, right: bool, least: str) -> None:
    if not right:
        raise MochiError(f"{name} is {value!r}, but must be at least {least}")
