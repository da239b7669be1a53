"""The checkpoint of a run: all that it takes to go on as if nothing had happened."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
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

DIGESTS = {
    "clips": "the clips, their captions, sizes, lengths or windows have changed",
    "kept": "the prompts to keep have changed",
}
"""What is said of what only a digest is known of."""


@dataclass(frozen=True)
class Identity:
    """What must be the same when a run goes on, each in words or as JSON has it.

    What is random hangs on the seed and on numbers counted from the start, so there is no random state beside these.

    Attributes:
        settings: of TrainSettings, FREE ones left out.
        model: the file of the frozen model and the dtype of its weights.
        clips: a digest of those that are trained on, as they are cut, and their captions.
        hold_out: how many are not.
        kept: a digest of the prompts that are kept.
        groups: of devices that train on clips of their own.
        start: the LoRA that it began with, a file.
    """

    settings: dict[str, Any]
    model: str
    clips: str
    hold_out: int
    kept: str
    groups: int
    start: str | None = None

    def differences(self, other: "Identity") -> list[str]:
        """What is not as in the other, in words: `learning rate was 0.1 and is 0.2`."""
        mine, theirs = self._flat(), other._flat()
        changed = [name for name in theirs if mine.get(name) != theirs[name]]
        return [DIGESTS.get(name) or f"{name} was {mine.get(name)} and is {theirs[name]}" for name in changed]

    def _flat(self) -> dict[str, Any]:
        values = asdict(self)
        settings = values.pop("settings")
        flat = {}
        for name, value in settings.items():
            flat |= {f"{name} {key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        return {**flat, **values}


def save_checkpoint(folder: Path, optimizer: Optimizer, identity: Identity, told: Any) -> None:
    """Write the checkpoint of a run's folder, in place of the one before. Raises MochiError where it cannot be.

    told: what else the run has to remember, as JSON has it.
    """
    run = {"step": optimizer.step, "told": told, "identity": asdict(identity)}
    write_tensors(folder / NAME, optimizer.state(), {"run": json.dumps(run)}, "the checkpoint")


def check_checkpoint(folder: Path, identity: Identity) -> None:
    """Raise MochiError where the checkpoint of a folder, if there is one, is of another run, or cannot be read."""
    path = folder / NAME
    if not path.is_file():
        return
    with _reading(path) as file:
        earlier = Identity(**json.loads((file.metadata() or {})["run"])["identity"])
        if wrong := earlier.differences(identity):
            raise MochiError(
                f"{path}: the run there cannot be gone on with, since {'; '.join(wrong)}. Choose what it had, another "
                "output, or restart, which throws it away"
            )


def restore_checkpoint(folder: Path, optimizer: Optimizer) -> Any:
    """Go on from the checkpoint of a folder. Returns what the run was to remember; None where there is none.

    Raises MochiError where it cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    with _reading(path) as file:
        run = json.loads((file.metadata() or {})["run"])
        optimizer.restore({name: file.get_tensor(name) for name in file.keys()}, int(run["step"]))  # noqa: SIM118
        return run["told"]


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The opened file. Raises MochiError where it is not what it should be."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise MochiError(
            f"{path}: not a checkpoint of a training run ({error}). Remove it, or restart, which throws it away"
        ) from error
