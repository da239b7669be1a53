"""The progress bar of the node that runs now, and its cancel button."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import comfy.model_management as mm
import comfy.utils

Item = TypeVar("Item")


def steps(items: Sequence[Item]) -> Iterator[Item]:
    """The items one by one, with progress; raises the host's interrupt when the user cancels."""
    bar = comfy.utils.ProgressBar(len(items))
    for item in items:
        mm.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)
