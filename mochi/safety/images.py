"""Frames against an image classifier of transformers, whose files are on this machine."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex
import torch
from torch import Tensor

from ..errors import MochiError
from .fold import bare, fold
from .guard import Finding

EVERY, THRESHOLD, BATCH = 8, 0.5, 8

UNSAFE = {
    *("nsfw", "unsafe", "explicit", "adult", "erotic", "nude", "nudity", "naked", "sex", "sexy", "sexual"),
    *("porn", "pornography", "pornographic", "hentai", "gore", "gory", "violence", "violent", "hate"),
}
"""Words in the usual names of labels that say that a picture is none to be shown."""

NOT = {"not", "no", "non", "without"}

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Classifier:
    """A classifier whose files are there, checked.

    Attributes:
        model: its folder, or its owner/name on the hub, which is looked for in the hub's cache and never fetched.
        labels: that block a frame; by default those whose names say so.
        threshold: how likely these labels together must be, 0 to 1.
        every: how many frames it goes on by; the first and the last frame are looked at, too.
        device: that it runs on.

    Raises MochiError.
    """

    model: str
    labels: Sequence[str] = ()
    threshold: float = THRESHOLD
    every: int = EVERY
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not _is_number(self.threshold) or not 0 < self.threshold <= 1:
            raise MochiError(f"{self.model}: threshold is {self.threshold!r}, but must be above 0, and 1 at most")
        if not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1:
            raise MochiError(f"{self.model}: every is {self.every!r}, but must be a whole number from 1")
        self.blocked()

    @property
    def name(self) -> str:
        return self.model if is_on_hub(self.model) else Path(self.model).name

    def folder(self) -> Path:
        """Where its files are. Raises MochiError where they are not whole, or no classifier."""
        folder = Path(self.model)
        if not folder.is_dir():
            cached = _cached(self.model)
            if cached is None:
                raise MochiError(_missing(self.model))
            folder = cached
        if not any((folder / name).is_file() for name in WEIGHTS):
            there = "it has other weights, which are not read: " if any(folder.glob("*.bin")) else ""
            raise MochiError(f"{self.model}: {there}a classifier's folder must have {WEIGHTS[0]} beside config.json")
        return folder

    def blocked(self) -> dict[int, str]:
        """The names of the labels that block a frame, by their numbers."""
        config = _config(self.folder(), self.model)
        names = {int(number): str(name) for number, name in config["id2label"].items()}
        if not self.labels:
            found = {number: name for number, name in names.items() if speaks_of_unsafe(name)}
            if not found:
                raise MochiError(
                    f"{self.model}: none of its labels says by its name what is unsafe; choose some as labels: "
                    f"{', '.join(names.values())}"
                )
            return found
        wanted = {fold(label) for label in self.labels}
        found = {number: name for number, name in names.items() if fold(name) in wanted}
        if missing := wanted - {fold(name) for name in found.values()}:
            raise MochiError(
                f"{self.model}: labels has {', '.join(sorted(missing))}, but it has {', '.join(names.values())}"
            )
        return found

    def build(self) -> "ImageCheck":
        return ImageCheck(self)


class ImageCheck:
    """See Safety. Raises MochiError where the classifier cannot be loaded."""

    def __init__(self, classifier: Classifier):
        from transformers import AutoImageProcessor, AutoModelForImageClassification  # takes seconds

        self.every, self._threshold = classifier.every, classifier.threshold
        self._blocked, self._device = classifier.blocked(), classifier.device
        folder, local = classifier.folder(), {"local_files_only": True, "trust_remote_code": False}
        try:
            self._prepare: Any = AutoImageProcessor.from_pretrained(folder, **local)
            with _without_bar():
                model: Any = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True, **local)
            self._model = model.eval().to(classifier.device, torch.float32)
        except Exception as error:  # damaged files are told of by many kinds
            raise MochiError(f"{classifier.model}: the classifier cannot be loaded ({error})") from error

    def check_prompt(self, text: str) -> None:
        """Texts are no pictures."""

    @torch.inference_mode()
    def check_frames(self, frames: Tensor) -> Finding | None:
        for start in range(0, len(frames), BATCH):
            scores = self._scores(frames[start : start + BATCH])
            for place, row in enumerate(scores.tolist(), start):
                likely = {number: row[number] for number in self._blocked}
                score = max(likely.values()) if self._is_multi_label else min(1.0, sum(likely.values()))
                if not score < self._threshold:  # what is no number blocks too
                    worst = self._blocked[max(likely, key=likely.__getitem__)]
                    return Finding(f"it looks like {worst!r}", round(score, 4), place)
        return None

    @property
    def _is_multi_label(self) -> bool:
        """Whether each label has a probability of its own; else those of all labels are 1 together."""
        config = self._model.config
        return config.problem_type == "multi_label_classification" or config.num_labels == 1

    def _scores(self, frames: Tensor) -> Tensor:
        """The probabilities of all labels, (F, labels)."""
        pictures = [frame.numpy() for frame in frames]
        inputs = self._prepare(images=pictures, return_tensors="pt", input_data_format="channels_last")
        logits = self._model(pixel_values=inputs["pixel_values"].to(self._device)).logits.float()
        return logits.sigmoid() if self._is_multi_label else logits.softmax(dim=-1)


def is_on_hub(name: str) -> bool:
    """Whether a name is one of the hub's: owner/name."""
    return regex.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, regex.ASCII) is not None and not Path(name).is_dir()


def speaks_of_unsafe(label: str) -> bool:
    """Whether the name of a label says that a picture is none to be shown."""
    words = set(bare(fold(label.replace("_", " "))).split())
    return bool(words & UNSAFE or {"not", "safe"} <= words) and not (words & NOT and not words & {"safe"})


def _config(folder: Path, model: str) -> Mapping[str, Any]:
    """The configuration, with the names of its labels."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kinds = config.get("architectures") or ["unknown"]
        labels = config.get("id2label") or {number: f"LABEL_{number}" for number in range(config.get("num_labels", 2))}
        config = {**config, "id2label": {int(number): name for number, name in labels.items()}}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise MochiError(f"{model}: config.json cannot be read ({error})") from error
    if not any(str(kind).endswith("ForImageClassification") for kind in kinds):
        raise MochiError(f"{model}: no image classifier of transformers, but {', '.join(map(str, kinds))}")
    return config


def _cached(model: str) -> Path | None:
    """The folder of a classifier in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model, "config.json") if is_on_hub(model) else None
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def _missing(model: str) -> str:
    if not is_on_hub(model):
        return f"{model}: there is no such folder of a classifier"
    return (
        f"{model}: there is no such folder, nor is it in the hub's cache, and it is never fetched by itself: "
        f"`hf download {model}` does so"
    )


@contextmanager
def _without_bar() -> Iterator[None]:
    """Inside, transformers draws no bar of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
