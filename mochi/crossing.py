"""Crossing to other processes, on this machine or another one: whatever can be pickled, and errors for people.

What is of our package is named by its place in it: under ComfyUI the package has another name than elsewhere. Nothing
here imports torch.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from operator import attrgetter
from types import FunctionType
from typing import Any

from .errors import MochiError

PACKAGE = __name__.removesuffix(".crossing")
"""The name of our package in this process: `mochi` in a worker, something made of a path under ComfyUI."""


def encode(message: Any) -> bytes:
    """A message as bytes for another machine: tensors are in it, on the CPU, without the memory around a view."""
    buffer = io.BytesIO()
    _CopyingPickler(buffer, pickle.HIGHEST_PROTOCOL).dump(message)
    return buffer.getvalue()


def decode(data: bytes) -> Any:
    """The message of `encode`, or of a channel."""
    return Unpickler(io.BytesIO(data)).load()


class Pickler(ForkingPickler):
    """Names what is of our package by its place in it."""

    def persistent_id(self, value: Any) -> tuple[str, str] | None:
        if isinstance(value, (type, FunctionType)) and f"{value.__module__}.".startswith(f"{PACKAGE}."):
            return value.__module__.removeprefix(PACKAGE), value.__qualname__
        return None


class _CopyingPickler(Pickler):
    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")  # imported, if there are tensors
        if torch is None or not isinstance(value, torch.Tensor):
            return NotImplemented
        numbers = value.detach().cpu().contiguous()
        return _tensor, (numbers.reshape(-1).view(torch.uint8).numpy().tobytes(), value.dtype, tuple(value.shape))


def _tensor(data: bytes, dtype: Any, shape: tuple[int, ...]) -> Any:
    import torch

    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


class Unpickler(pickle.Unpickler):
    """Finds what is of our package."""

    def persistent_load(self, reference: tuple[str, str]) -> Any:
        module, name = reference
        return attrgetter(name)(importlib.import_module(PACKAGE + module))


def answer(function: Callable[..., Any], data: bytes) -> bytes:
    """Call a function with encoded arguments. Returns its encoded result, or what it had to say about them."""
    try:
        return encode((function(*decode(data)), None))
    except MochiError as error:
        return encode((None, str(error)))


def result_of(data: bytes) -> Any:
    """What `answer` has returned. Raises MochiError in the words that it was raised with there."""
    result, complaint = decode(data)
    if complaint is not None:
        raise MochiError(complaint)
    return result
