"""How strong a LoRA is meant to be: alpha / rank, wherever a file has its alpha.

Sources: `demos/fine_tuner/train.py` and `lora.py` of the published trainer; `LoraConfig` of PEFT, which diffusers
writes into the metadata.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from .pairs import Pair

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Scales:
    """The scale of each pair of factors in a file. Without an alpha it is 1."""

    def __init__(self, file: Checkpoint):
        self._path = file.path
        self._trainer = _json(file, "kwargs")
        self._peft = _without_prefix(_json(file, "lora_adapter_metadata") or _beside(file.files[0]))

    def scale(self, pair: Pair) -> float:
        """What `up @ down` is multiplied by. Raises CheckpointError on an alpha that is no number."""
        if pair.alpha is not None:
            return self._number(pair, pair.alpha.read().float().reshape(-1).tolist()) / pair.rank
        if (alpha := self._peft_alpha(pair.stem)) is not None:
            root = math.sqrt(pair.rank) if self._peft.get("use_rslora") else pair.rank
            return self._number(pair, [alpha]) / root
        if (alpha := self._trainer_alpha(pair.place.layer)) is not None:
            return self._number(pair, [alpha]) / pair.rank
        return 1.0

    def _peft_alpha(self, stem: str) -> Any:
        try:
            for pattern, alpha in (self._peft.get("alpha_pattern") or {}).items():
                if re.match(rf"(.*\.)?({pattern})$", stem):  # as PEFT does
                    return alpha
        except (AttributeError, re.error) as error:
            raise CheckpointError(f"{self._path}: its alpha_pattern cannot be read ({error})") from error
        return self._peft.get("lora_alpha")

    def _trainer_alpha(self, layer: str) -> Any:
        kind = "qkv" if ".qkv_" in layer else "out"
        names = (f"{kind}_proj_lora_alpha", f"{kind}_lora_alpha", f"{kind}_alpha", "lora_alpha", "alpha")
        return next((self._trainer[name] for name in names if self._trainer.get(name) is not None), None)

    def _number(self, pair: Pair, values: list[Any]) -> float:
        try:
            (alpha,) = (float(value) for value in values)
        except (TypeError, ValueError, OverflowError):
            alpha = math.nan
        if not math.isfinite(alpha):
            raise CheckpointError(f"{self._path}: the alpha of {pair.stem} is {values}, but must be a number")
        return alpha


def _json(file: Checkpoint, key: str) -> dict[str, Any]:
    return _parsed(file.metadata.get(key) or "{}", f"{file.path}: its metadata under {key!r}")


def _beside(path: Path) -> dict[str, Any]:
    """The settings that PEFT itself keeps in a file of their own."""
    config = path.with_name(PEFT_CONFIG)
    if path.name != PEFT_FILE or not config.is_file():
        return {}
    return _parsed(config.read_bytes(), str(config))


def _parsed(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{what} is not an object but {text[:40]!r}")
    return parsed


def _without_prefix(config: dict[str, Any]) -> dict[str, Any]:
    """A pipeline writes the settings of each of its parts with that part's name before."""
    return {key.removeprefix("transformer."): value for key, value in config.items()}
