"""Formulas of the networks, each with a kernel that takes its place on a CUDA device.

A formula is written once, in plain torch, beside the layer that uses it. It is the reference. It also is what runs on a
CPU, under torch.compile (which fuses it by itself), and wherever gradients are asked for. On a CUDA device a Triton
kernel computes the same in one pass over memory, in float32 inside, and rounds once.

Each formula is an operator of torch too, `torch.ops.<namespace>.<formula>`. So fake tensors, profilers and counters of
launches see one operation.
"""

import functools
import importlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Given = TypeVar("Given", covariant=True)

SWITCH = "MOCHI_KERNELS"
"""The environment variable that leaves all kernels out when it is 0."""

# A host may load this package more than once, under different names; torch knows an operator's name once.
_LIBRARY = torch.library.Library(re.sub(r"\W", "_", __name__.rpartition(".")[0]), "DEF")
_state = {"off": os.environ.get(SWITCH) == "0"}
_failed: set[str] = set()


class Gradient(torch.autograd.Function):
    """A formula with gradients of its own. `apply` takes what computes it without any, and then its arguments.

    Attributes:
        learns: how many of the arguments, from the first, it has gradients for.
    """

    learns = 1

    @classmethod
    def is_for(cls, args: Sequence[Any]) -> bool:
        """Whether gradients are wanted, and of no other arguments."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        wanted = [isinstance(t, Tensor) and t.requires_grad for t in args]
        return any(wanted) and not any(wanted[cls.learns :])


class Formula(Protocol[Arguments, Given]):
    """A function with a kernel.

    Attributes:
        reference: the function itself.
        launcher: what runs on CUDA.
    """

    __name__: str
    reference: Callable[Arguments, Given]
    launcher: Callable[..., Any]

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Given: ...


def formula(
    kernel: str, mutates: Sequence[str] = (), gradient: type[Gradient] | None = None
) -> Callable[[Callable[Arguments, Result]], Formula[Arguments, Result]]:
    """Declare a function of plain torch as the reference of a kernel.

    The function's first argument is a tensor. Where it is on a CUDA device, the kernel runs. The function must return
    new tensors, no views of its arguments; or nothing where it writes into them.

    Args:
        kernel: "module:function" in this package, imported when it is first used. It takes the function's arguments.
        mutates: names of the arguments that are written into.
        gradient: where it has gradients of its own; otherwise they are those of plain torch.
    """

    def decorate(reference: Callable[Arguments, Result]) -> Formula[Arguments, Result]:
        name = reference.__name__
        _LIBRARY.define(name + torch.library.infer_schema(reference, mutates_args=mutates))
        _LIBRARY.impl(name, reference, "CPU")
        launcher = _on_cuda(name, kernel, reference)
        _LIBRARY.impl(name, launcher, "CUDA")
        torch.library.register_fake(f"{_LIBRARY.ns}::{name}", reference, lib=_LIBRARY)
        operator = getattr(getattr(torch.ops, _LIBRARY.ns), name).default

        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            if gradient is not None and gradient.is_for(args):
                return gradient.apply(run, *_with_defaults(reference, args))
            return (operator if has_kernels(*args) else reference)(*args, **kwargs)

        declared: Any = functools.update_wrapper(run, reference)
        declared.reference, declared.launcher = reference, launcher
        return declared

    return decorate


def has_kernels(*args: Any) -> bool:
    """Whether kernels compute with these arguments of a formula, of which the first is a tensor."""
    if torch.compiler.is_compiling() or args[0].device.type != "cuda" or _state["off"]:
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


@functools.lru_cache
def _is_there() -> bool:
    """Whether Triton is installed, which torch for CUDA brings along on Linux."""
    return importlib.util.find_spec("triton") is not None


def failed_kernels() -> set[str]:
    """Names of the formulas whose kernels did not run in this process, and are not tried again."""
    return set(_failed)


def _with_defaults(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """All arguments of a function."""
    defaults: tuple[Any, ...] = function.__defaults__ or ()  # pyright: ignore[reportFunctionMemberAccess]
    return args + defaults[len(defaults) - function.__code__.co_argcount + len(args) :]


def _on_cuda(name: str, kernel: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """What runs on CUDA: the kernel or, if that could not be built (Triton needs a C compiler), the formula."""
    module, _, function = kernel.partition(":")

    def run(*args: Any) -> Any:
        args = _with_defaults(reference, args)  # torch leaves out arguments that equal them
        if name in _failed:
            return reference(*args)
        try:
            launch = getattr(importlib.import_module(f".{module}", __package__), function)
            with torch.cuda.device(args[0].device):
                return launch(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if "out of memory" in str(error):  # there was no room for the code, but there may be next time
                return reference(*args)
            _failed.add(name)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            # A machine that lacks something lacks it for all kernels: one warning is enough.
            level = logging.WARNING if len(_failed) == 1 else logging.INFO
            log.log(level, "Kernel %s does not run here, and plain torch takes its place, slower: %s", name, reason)
            return reference(*args)

    return run
