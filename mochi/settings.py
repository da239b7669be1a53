"""The settings of one video, checked when they are put together."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from .config import RunDefaults
from .dit.cache import CachePlan
from .errors import MochiError
from .geometry import check_frames, check_size
from .images import GivenImage, by_latent
from .sampling import SkipLayers, linear_quadratic, per_step_cfg
from .text.characters import check_text
from .video.limits import exact_fps


@dataclass(frozen=True)
class GenerateSettings:
    """Settings of one video. Raises MochiError, naming the setting, when they cannot work together.

    cfg: one guidance scale, or one for each step. threshold_noise, linear_steps: of the sigma schedule.
    width, height in pixels, multiples of 16; frames 6k + 1; fps frames a second. teacache: threshold, see CachePlan.
    stg, stg_layers, stg_rescale: skip-layer guidance, see SkipLayers; without it where stg is 0.
    images: pictures that frames are given; no two for one latent frame.
    """

    prompt: str
    negative: str
    seed: int
    steps: int
    cfg: float | Sequence[float]
    width: int
    height: int
    frames: int
    fps: float
    threshold_noise: float
    linear_steps: int | None = None
    teacache: float = 0.0
    stg: float = 0.0
    stg_layers: Sequence[int] = RunDefaults.stg_layers
    stg_rescale: float = 0.0
    images: Sequence[GivenImage] = ()

    @classmethod
    def of(cls, defaults: RunDefaults, /, **chosen: Any) -> GenerateSettings:
        """Fills what was not chosen (absent or None) from a model's defaults; a seed is drawn.

        images: a list of them, each in any form that `GivenImage.of` takes.
        """
        unknown = chosen.keys() - {field.name for field in fields(cls)}
        if unknown:
            known = ", ".join(field.name for field in fields(cls))
            raise MochiError(f"unknown setting {', '.join(sorted(unknown))}; there are {known}")
        given = {name: value for name, value in chosen.items() if value is not None}
        if "prompt" not in given:
            raise MochiError("a prompt is missing")
        if "images" in given:
            _check("images", given["images"], isinstance(given["images"], (list, tuple)), "a list")
            given["images"] = tuple(map(GivenImage.of, given["images"]))
        return cls(**{"negative": "", "seed": secrets.randbelow(2**32), **asdict(defaults), **given})

    def __post_init__(self) -> None:
        for name in ("prompt", "negative"):
            _check(name, getattr(self, name), isinstance(getattr(self, name), str), "a text")
            check_text(name, getattr(self, name))
        _check("seed", self.seed, _is_int(self.seed) and 0 <= self.seed < 2**64, "a whole number from 0 to 2^64 - 1")
        for name in ("steps", "width", "height", "frames"):
            _check(name, getattr(self, name), _is_int(getattr(self, name)), "a whole number")
        for name in ("fps", "threshold_noise", "teacache", "stg", "stg_rescale"):
            _check(name, getattr(self, name), _is_number(getattr(self, name)), "a number")
        linear = self.linear_steps
        _check("linear_steps", linear, linear is None or _is_int(linear), "a whole number")
        cfg = self.cfg if isinstance(self.cfg, (list, tuple)) else [self.cfg]
        _check("cfg", self.cfg, all(map(_is_number, cfg)), "a number, or a list of numbers, one for each step")
        _check("teacache", self.teacache, self.teacache >= 0, "0 or more")
        _check("stg", self.stg, self.stg >= 0, "0 or more")
        _check("stg_rescale", self.stg_rescale, 0 <= self.stg_rescale <= 1, "between 0 and 1")
        layers = self.stg_layers
        is_list = isinstance(layers, (list, tuple)) and len(layers) > 0 and all(map(_is_int, layers))
        _check("stg_layers", layers, is_list, "a list with the numbers of blocks")
        check_size(self.width, self.height)
        check_frames(self.frames)
        by_latent(self.images, self.frames)
        exact_fps(self.fps)
        self.sigmas()
        self.scales()

    def sigmas(self) -> list[float]:
        """The noise levels, steps + 1 of them."""
        return linear_quadratic(self.steps, self.threshold_noise, self.linear_steps)

    def cache(self) -> CachePlan | None:
        """The plan of a step cache, if there is to be one."""
        return CachePlan(self.teacache, tuple(self.sigmas())) if self.teacache else None

    def skip_layers(self) -> SkipLayers | None:
        """Skip-layer guidance, if there is to be any."""
        return SkipLayers(tuple(self.stg_layers), self.stg, self.stg_rescale) if self.stg else None

    @property
    def passes(self) -> int:
        """Forward passes of each step, at the least: the prompt, guidance, and skip-layer guidance."""
        return 1 + all(scale != 1 for scale in self.scales()) + bool(self.stg)

    def check_depth(self, depth: int) -> None:
        """Raise MochiError where a network of so many blocks lacks one that is to be left out."""
        skip = self.skip_layers()
        if skip is not None:
            skip.check(depth)

    def scales(self) -> list[float]:
        """The guidance of each step."""
        return per_step_cfg(self.cfg, self.steps)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    """Neither NaN nor too large for a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check(name: str, value: object, right: bool, what: str) -> None:
    if not right:
        raise MochiError(f"{name} is {value!r}, but must be {what}")
