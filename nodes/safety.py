"""Checks of prompts and frames, between the nodes that make them and those that use them."""

import time
from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..mochi.errors import MochiError
from ..mochi.safety import SafetySettings, logged
from ..mochi.safety.images import EVERY, THRESHOLD
from . import widgets
from .host.checks import complaint
from .host.safety import Checks, checks_of, classifier_of, log, not_linked, settings_of, words_of
from .host.sockets.text import prompts_of
from .host.types import Conditioning

MochiSafety = io.Custom("MOCHI_SAFETY")


class Safety(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelSafety",
            "Mochi Safety",
            "Passes on a text, a conditioning and frames if the checks let them through, and ends the run if not. What "
            "is blocked is written down in blocked.jsonl in ComfyUI's user folder.",
            found_as=("nsfw", "block", "filter", "content", "moderation", "guard"),
            inputs=[
                io.String.Input(
                    "text", optional=True, force_input=True, tooltip="A prompt, before it goes to Mochi Text Encode."
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="Straight from Mochi Text Encode, before it goes to a sampler: its text is checked.",
                ),
                io.Image.Input("images", optional=True, tooltip="The frames of a video, before they are saved."),
                io.String.Input(
                    "words",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="What no prompt may have: a word, a phrase or an /expression/ a line. # begins a note. "
                    "Capitals and accents make no difference.",
                ),
                io.String.Input(
                    "classifier",
                    default="",
                    optional=True,
                    tooltip="An image classifier of transformers: a folder in ComfyUI's models/safety, or its "
                    "owner/name in the hub's cache. It is never fetched.",
                ),
                io.String.Input(
                    "labels",
                    default="",
                    optional=True,
                    tooltip="Of the classifier, those that block a frame, with commas between them. Empty: those whose "
                    "names say so, such as nsfw.",
                ),
                widgets.number(
                    "threshold",
                    THRESHOLD,
                    (0.01, 1.0),
                    "How sure the classifier must be. Less blocks more.",
                    step=0.01,
                    optional=True,
                ),
                widgets.count(
                    "every",
                    EVERY,
                    (1, 1000),
                    "The classifier sees every n-th frame, and always the first and the last one.",
                    optional=True,
                ),
                io.String.Input(
                    "checks",
                    default="",
                    optional=True,
                    tooltip="More of them, with commas between: lists (.txt) and settings (.json) in ComfyUI's "
                    "models/safety, and installed checks by their names.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The text, as it came."),
                io.Conditioning.Output(display_name="conditioning", tooltip="The conditioning, as it came."),
                io.Image.Output(display_name="images", tooltip="The frames, as they came."),
                MochiSafety.Output(
                    display_name="safety",
                    tooltip="The checks, for Mochi Save Video, which then asks them before a frame reaches the disk, "
                    "and for Mochi Cluster Batch.",
                ),
            ],
            hidden=[io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(
        cls,
        words: str | None = "",
        classifier: str | None = "",
        labels: str | None = "",
        threshold: float | None = THRESHOLD,
        every: int | None = EVERY,
        checks: str | None = "",
    ) -> bool | str:
        of_classifier = classifier, labels, threshold, every
        found = complaint(words_of, words, widget="words") or complaint(checks_of, checks, widget="checks")
        found = found or complaint(classifier_of, *of_classifier, widget="classifier")
        return found or complaint(_settings, words, *of_classifier, checks, widget="words") or True

    @classmethod
    def fingerprint_inputs(
        cls,
        words: str = "",
        classifier: str = "",
        labels: str = "",
        threshold: float = THRESHOLD,
        every: int = EVERY,
        checks: str = "",
        **_: Any,
    ) -> str | float:
        """What is in the files, which may have changed."""
        version = _settings(words, classifier, labels, threshold, every, checks).version()
        return time.monotonic() if version is None else version  # the time is never the same

    @classmethod
    def execute(
        cls,
        text: str | None = None,
        conditioning: Conditioning | None = None,
        images: Tensor | None = None,
        words: str = "",
        classifier: str = "",
        labels: str = "",
        threshold: float = THRESHOLD,
        every: int = EVERY,
        checks: str = "",
    ) -> io.NodeOutput:
        settings = _settings(words, classifier, labels, threshold, every, checks)
        guard, about = settings.guard(), settings_of(cls.hidden)
        prompts = [] if text is None else [text]
        prompts += [] if conditioning is None else prompts_of(conditioning)
        with logged(guard.log):
            for prompt in prompts:
                guard.check_prompt(prompt, {"prompt": prompt, **about})
            if images is not None:
                guard.check_frames(images[..., :3], about)
        passed = {"text": text, "conditioning": conditioning, "images": images}
        outputs = [not_linked(name) if value is None else value for name, value in passed.items()]
        return io.NodeOutput(*outputs, Checks(settings, guard))


def _settings(words: str, classifier: str, labels: str, threshold: float, every: int, checks: str) -> SafetySettings:
    """What the widgets ask for. Raises MochiError where that is nothing."""
    found = words_of(words).with_all_of(classifier_of(classifier, labels, threshold, every))
    found = found.with_all_of(checks_of(checks))
    if not found.any:
        raise MochiError("words, classifier and checks are all empty, so that nothing would be checked: fill in one")
    return replace(found, log=found.log or log())
