"""What a trainer says of its LoRA, in the terms of PEFT's LoraConfig."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checkpoint.layouts.wrappers import without_wrappers
from ..errors import CheckpointError


@dataclass(frozen=True)
class Settings:
    """The settings of a LoRA. Values are as they are stored, and are looked at when they are needed.

    Attributes:
        where: the file, and where in it, for messages.
        alpha: of layers without one of their own; None where nothing is said.
        alpha_pattern: alphas by regular expressions for the end of a layer's name.
        rank, rank_pattern: the same for ranks.
        rslora: whether the divisor is the root of the rank.
        targets: the ends of the names of all layers that have factors, or one regular expression for them.
        alpha_name: what alpha is called there.
    """

    where: str
    alpha: Any = None
    alpha_pattern: Mapping[str, Any] = field(default_factory=dict)
    rank: Any = None
    rank_pattern: Mapping[str, Any] = field(default_factory=dict)
    rslora: bool = False
    targets: Any = None
    alpha_name: str = "alpha"

    def scale(self, stem: str, rank: int) -> float | None:
        """alpha / rank of a layer; None where alpha is not said. Raises CheckpointError where alpha is no number."""
        alpha = self.alpha_of(stem)
        if alpha is None:
            return None
        return number(alpha, f"{self.where}: {self.alpha_name}") / (math.sqrt(rank) if self.rslora else rank)

    def alpha_of(self, stem: str) -> Any:
        """As it is stored."""
        return self._matched("alpha_pattern", self.alpha_pattern, stem, self.alpha)

    def misfit(self, ranks: Mapping[str, int | None]) -> str | None:
        """Why the settings are not those of a LoRA with layers of these ranks; None where they can be."""
        for stem, rank in ranks.items():
            said = self._matched("rank_pattern", self.rank_pattern, stem, self.rank)
            if said is not None and number(said, f"{self.where}: rank") != rank:
                return f"its rank is {said}, but that of {stem} is {rank}"
            if isinstance(self.targets, list) and not any(
                f".{without_wrappers(stem)}".replace("_", ".").endswith(f".{target}".replace("_", "."))
                for target in self.targets
            ):
                return f"it is not for {stem}"
        return None

    def _matched(self, title: str, pattern: Mapping[str, Any], stem: str, otherwise: Any) -> Any:
        names = (without_wrappers(stem), stem)
        try:
            for expression, value in pattern.items():
                if any(re.match(rf"(.*\.)?({expression})$", name) for name in names):  # as PEFT does
                    return value
        except re.error as error:
            raise CheckpointError(f"{self.where}: its {title} cannot be read ({error})") from error
        return otherwise


def peft_settings(stored: dict[str, Any], where: str) -> Settings:
    """PEFT's LoraConfig as JSON. A pipeline writes the settings of each of its parts with that part's name before."""
    stored = {key.removeprefix("transformer."): value for key, value in stored.items()}
    patterns = {}
    for title in ("alpha_pattern", "rank_pattern"):
        patterns[title] = stored.get(title) or {}
        if not isinstance(patterns[title], dict):
            raise CheckpointError(f"{where}: its {title} cannot be read ({patterns[title]!r} is not an object)")
    return Settings(
        where,
        stored.get("lora_alpha"),
        rank=stored.get("r"),
        rslora=stored.get("use_rslora") is True,
        targets=stored.get("target_modules"),
        alpha_name="lora_alpha",
        **patterns,
    )


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, or a text of one."""
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def number(value: Any, what: str) -> float:
    """The number that a value is, or a text of. Raises CheckpointError on anything else; `what` names it."""
    if not is_number(value):
        raise CheckpointError(f"{what} is {str(value)[:40]}, but must be a number")
    return float(value)


def parsed(text: str | bytes, what: str) -> dict[str, Any]:
    """The object that a JSON text is. Raises CheckpointError on anything else; `what` names it."""
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not JSON: {error}") from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{what} is not an object but {text[:40]!r}")
    return stored
