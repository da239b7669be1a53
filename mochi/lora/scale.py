"""How strong a LoRA is meant to be: alpha / rank, wherever a file has its alpha.

Sources: `demos/fine_tuner/train.py` and `lora.py` of the published trainer; `LoraConfig` of PEFT, which diffusers
writes into the metadata.
"""

import json
import math
import re
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from .pairs import Pair

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Scales:
    """The scale of each pair of factors in a file. Without an alpha it is 1."""

    def __init__(self, file: Checkpoint):
        self._path = file.path
        self._trainer = _of_metadata(file, "kwargs")
        peft = _of_metadata(file, "lora_adapter_metadata")
        weights = next(iter(file.files), file.path)  # `path` may be the folder
        config = weights.with_name(PEFT_CONFIG)
        if not peft and weights.name == PEFT_FILE and config.is_file():
            peft = _parsed(config.read_bytes(), str(config))
        # A pipeline writes the settings of each of its parts with that part's name before.
        self._peft = {key.removeprefix("transformer."): value for key, value in peft.items()}

    def scale(self, pair: Pair) -> float:
        """The factor of `up @ down`. Raises CheckpointError on an alpha that is no number."""
        values, divisor = [], float(pair.rank)
        if pair.alpha is not None:
            values = pair.alpha.read().float().reshape(-1).tolist()
        elif (alpha := self._peft_alpha(pair.stem)) is not None:
            values = [alpha]
            divisor = math.sqrt(divisor) if self._peft.get("use_rslora") else divisor
        elif (alpha := self._trainer_alpha(pair.place.layer)) is not None:
            values = [alpha]
        else:
            return 1.0
        try:
            (alpha,) = (float(value) for value in values)
        except (TypeError, ValueError, OverflowError):
            alpha = math.nan
        if not math.isfinite(alpha):
            raise CheckpointError(f"{self._path}: the alpha of {pair.stem} is {values}, but must be a number")
        return alpha / divisor

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


def _of_metadata(file: Checkpoint, key: str) -> dict[str, Any]:
    return _parsed(file.metadata.get(key) or "{}", f"{file.path}: its metadata under {key!r}")


def _parsed(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{what} is not an object but {text[:40]!r}")
    return parsed
