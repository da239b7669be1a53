"""Ways out of the code that torch.compile makes.

To be imported where something is compiled, or can be: torch's compiler takes seconds to import.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def outside(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, which compiled code leaves its graph to call. It and all that it calls run as they are written."""
    disabled: Any = torch.compiler.disable(function)
    return disabled


@outside
def uncompiled(function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """`function(*args, **kwargs)`, outside compiled code."""
    return function(*args, **kwargs)
