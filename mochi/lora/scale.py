"""How strong a LoRA is meant to be: alpha / rank. The first of these that says what alpha is counts:

1. a tensor `alpha` beside a layer's factors, as kohya's scripts and LyCORIS write it
2. the file's metadata: PEFT's settings as diffusers writes them (`lora_adapter_metadata`), those of the published
   trainer (`kwargs`), kohya's (`ss_network_alpha`), or plain `lora_alpha`, `network_alpha` or `alpha`
3. a file of settings beside it, PEFT's `adapter_config.json` or FastVideo's `lora_config.json`, if it is of this LoRA

Without any, alpha is the rank: the scale is 1.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from .adapters import Adapter
from .settings import Settings, is_number, number, parsed, peft_settings

log = logging.getLogger(__name__)

ALPHAS = ("ss_network_alpha", "lora_alpha", "network_alpha", "alpha")
NOTHING = ("", "None", "null", "0", "0.0")
"""What stands there where nobody has chosen an alpha. kohya's scripts take 0 for the rank."""

PEFT, FASTVIDEO = "adapter_config.json", "lora_config.json"


def files_beside(weights: Path) -> list[Path]:
    """The files of settings beside a LoRA."""
    return [config for name in (PEFT, FASTVIDEO) if (config := weights.with_name(name)).is_file()]


class Scales:
    """The scale of each adapter in a file.

    `beside`: the files of settings beside it that are of this LoRA and count.
    Raises CheckpointError on settings that cannot be read.
    """

    def __init__(self, file: Checkpoint, adapters: Sequence[Adapter]):
        self._path = file.path
        alone = [one for one in adapters if one.rank and "alpha" not in one.tensors]
        self._settings = list(_in_metadata(file)) if alone else []
        self.beside: tuple[Path, ...] = ()
        if alone and not any(one.alpha_of(alone[0].stem) is not None for one in self._settings):
            found = dict(_beside(next(iter(file.files), file.path), alone))  # `path` may be the folder
            self.beside = tuple(found)
            self._settings += found.values()

    def scale(self, adapter: Adapter) -> float:
        """The factor of `up @ down`. Raises CheckpointError on an alpha that is no number."""
        if adapter.rank is None:
            return 1.0
        if alpha := adapter.tensors.get("alpha"):
            values = alpha.read().float().reshape(-1).tolist()
            value = values[0] if len(values) == 1 else values
            return number(value, f"{self._path}: the alpha of {adapter.stem}") / adapter.rank
        for settings in self._settings:
            if (scale := settings.scale(adapter.stem, adapter.rank)) is not None:
                return scale
        return 1.0


def _in_metadata(file: Checkpoint) -> Iterator[Settings]:
    """What the file itself says."""
    if stored := file.metadata.get("lora_adapter_metadata"):
        where = f"{file.path}: its metadata under 'lora_adapter_metadata'"
        yield peft_settings(parsed(stored, where), where)
    if file.metadata.get("kwargs"):
        yield _published(file)
    for key in ALPHAS:
        value = file.metadata.get(key, "").strip()
        if value not in NOTHING and (key != "alpha" or is_number(value)):  # "alpha" can be about anything
            yield Settings(f"{file.path}: its metadata", alpha=value, alpha_name=key)


def _published(file: Checkpoint) -> Settings:
    """Of the published trainer; see `demos/fine_tuner/train.py` and `lora.py`."""
    where = f"{file.path}: its metadata under 'kwargs'"
    kwargs = parsed(file.metadata["kwargs"], where)

    def alpha(kind: str) -> object:
        names = (f"{kind}_proj_lora_alpha", f"{kind}_lora_alpha", f"{kind}_alpha", "lora_alpha", "alpha")
        return next((kwargs[name] for name in names if kwargs.get(name) is not None), None)

    return Settings(where, alpha("out"), {r".*(qkv_[xy]|to_[qkv]|add_[qkv]_proj)": alpha("qkv")})


def _beside(weights: Path, adapters: Sequence[Adapter]) -> Iterator[tuple[Path, Settings]]:
    """What lies beside the file, if it is of this LoRA: in a folder of many it may be of another. The log says so."""
    for config in files_beside(weights):
        read = peft_settings if config.name == PEFT else _fastvideo
        settings = read(parsed(config.read_bytes(), str(config)), str(config))
        if why := settings.misfit({one.stem: one.rank for one in adapters}):
            log.warning("%s: %s is of another LoRA (%s) and is not used", weights, config, why)
        else:
            log.info("%s: its alpha is that of %s", weights, config)
            yield config, settings


def _fastvideo(stored: dict[str, Any], where: str) -> Settings:
    """Of FastVideo, `{"step": 500, "lora_params": {"lora_rank": 128, "lora_alpha": 256, "target_modules": [...]}}`."""
    params = stored.get("lora_params", stored)
    if not isinstance(params, dict):
        raise CheckpointError(f"{where}: its lora_params are {params!r}, but must be an object")
    rank = next((params[name] for name in ("lora_rank", "rank", "r") if params.get(name) is not None), None)
    alpha = next((params[name] for name in ("lora_alpha", "alpha") if params.get(name) is not None), None)
    return Settings(where, alpha, rank=rank, targets=params.get("target_modules"))
