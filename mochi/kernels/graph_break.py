"""A way out of code that torch.compile makes. To be imported only while it compiles, since torch's compiler takes
seconds to import."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments, Result = ParamSpec("Arguments"), TypeVar("Result")


@torch.compiler.disable
def uncompiled(function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """`function(*args, **kwargs)`, run as it is written."""
    return function(*args, **kwargs)
