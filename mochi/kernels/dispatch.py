"""Formulas of the networks, each with a kernel that takes its place on a CUDA device.

A formula is written once, in plain torch, beside the layer that uses it. That is the reference, and what runs on a CPU,
under torch.compile (which fuses it by itself), and wherever gradients are asked for. On a CUDA device a Triton kernel
computes the same, in float32 inside, rounded once, in one pass over memory.

Each is an operator of torch too, `torch.ops.<namespace>.<formula>`: so fake tensors, profilers and whoever counts
launches see it as one operation.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

SWITCH = "MOCHI_KERNELS"
"""An environment variable: 0 leaves all kernels out."""

# A host may load this package more than once, under different names; torch knows an operator's name once.
_LIBRARY = torch.library.Library(re.sub(r"\W", "_", __name__.rpartition(".")[0]), "DEF")
_state = {"off": os.environ.get(SWITCH) == "0", "failed": False}


def formula(kernel: str, mutates: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Declare a function of plain torch as the reference of a kernel.

    kernel: "module:function" in this package, which takes the same arguments; imported with its first use. mutates:
    names of the arguments that are written into. The function must return new tensors, no views of its arguments, and
    nothing where it only writes.

    The first argument decides: a CUDA tensor takes the kernel. The function itself stays in reach as `.reference`.
    """

    def decorate(reference: Function) -> Function:
        name = reference.__name__
        _LIBRARY.define(name + torch.library.infer_schema(reference, mutates_args=mutates))
        _LIBRARY.impl(name, reference, "CPU")
        _LIBRARY.impl(name, _on_cuda(name, kernel, reference), "CUDA")
        torch.library.register_fake(f"{_LIBRARY.ns}::{name}", reference, lib=_LIBRARY)
        operator = getattr(getattr(torch.ops, _LIBRARY.ns), name).default

        @functools.wraps(reference)
        def run(*args: Any) -> Any:
            return operator(*args) if has_kernels(*args) else reference(*args)

        run.reference = reference
        return run

    return decorate


def has_kernels(*args: Any) -> bool:
    """Whether kernels compute with these arguments of a formula, of which the first is a tensor."""
    if torch.compiler.is_compiling() or args[0].device.type != "cuda" or _state["off"] or _state["failed"]:
        return False
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in args):
        return False
    return _is_there()


@contextmanager
def without_kernels() -> Iterator[None]:
    """Only references run inside, on CUDA too."""
    before, _state["off"] = _state["off"], True
    try:
        yield
    finally:
        _state["off"] = before


def take_failure() -> bool:
    """Whether a kernel could not run since this was last asked, and all has been computed without kernels. Forgets it:
    they are tried again."""
    failed, _state["failed"] = _state["failed"], False
    return failed


@functools.lru_cache
def _is_there() -> bool:
    """Whether Triton is installed, which torch for CUDA brings along on Linux."""
    return importlib.util.find_spec("triton") is not None


def _on_cuda(name: str, kernel: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """What runs on CUDA: the kernel or, once one cannot be built (Triton needs a C compiler), the formula."""
    module, _, function = kernel.partition(":")

    def run(*args: Any) -> Any:
        if _state["failed"]:
            return reference(*args)
        try:
            launch = getattr(importlib.import_module(f".{module}", __package__), function)
            with torch.cuda.device(args[0].device):
                return launch(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            _state["failed"] = True
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.warning("Kernel %s does not run here, and all is computed without kernels, slower: %s", name, reason)
            return reference(*args)

    return run
