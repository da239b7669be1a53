"""The checkpoint of a run: all that it takes to go on as if nothing had happened."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import MochiError
from .files import write_tensors
from .optimizer import Optimizer

NAME = "checkpoint.safetensors"

FREE = ("steps", "warmup")
"""Settings that may be others when a run goes on: only what comes depends on them."""


@dataclass(frozen=True)
class Identity:
    """What must be the same when a run goes on, each in words or as JSON has it.

    What is random hangs on the seed and on numbers counted from the start, so there is no random state beside these.

    Attributes:
        settings: of TrainSettings, FREE ones left out.
        model: the file of the frozen model and the dtype of its weights.
        data: the key of the training set.
        groups: of devices that train on clips of their own.
        start: the LoRA that it began with, a file.
    """

    settings: dict[str, Any]
    model: str
    data: str
    groups: int
    start: str | None = None

    def differences(self, other: "Identity") -> list[str]:
        """What is not as in the other, in words: `learning rate was 0.1 and is 0.2`."""
        mine, theirs = self._flat(), other._flat()
        changed = [name for name in theirs if mine.get(name) != theirs[name]]
        return [f"{name} was {mine.get(name)} and is {theirs[name]}" for name in changed]

    def _flat(self) -> dict[str, Any]:
        values = asdict(self)
        settings = values.pop("settings")
        flat = {}
        for name, value in settings.items():
            flat |= {f"{name} {key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        return {**flat, **values}


def save_checkpoint(folder: Path, optimizer: Optimizer, identity: Identity, seconds: float) -> None:
    """Write the checkpoint of a run's folder, in place of the one before. Raises MochiError where it cannot be."""
    run = {"step": optimizer.step, "seconds": seconds, "identity": asdict(identity)}
    write_tensors(folder / NAME, optimizer.state(), {"run": json.dumps(run)}, "the checkpoint")


def restore_checkpoint(folder: Path, optimizer: Optimizer, identity: Identity) -> float | None:
    """Go on from the checkpoint of a folder. Returns the seconds that the run took so far; None where there is none.

    Raises MochiError where it cannot be read, or is of a run with other settings, data or model.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            run = json.loads((file.metadata() or {})["run"])
            earlier = Identity(**run["identity"])
            if wrong := earlier.differences(identity):
                raise MochiError(
                    f"{path}: the run there cannot be gone on with, since {'; '.join(wrong)}. Choose what it had, "
                    "another output, or to begin anew (--restart), which throws it away"
                )
            optimizer.restore({name: file.get_tensor(name) for name in file.keys()}, int(run["step"]))  # noqa: SIM118
            return float(run["seconds"])
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise MochiError(
            f"{path}: not a checkpoint of a training run ({error}). Remove it, or begin anew (--restart)"
        ) from error
