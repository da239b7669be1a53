"""A way out of code that torch.compile makes. To be imported only while it compiles, since torch's compiler takes
seconds to import."""

from collections.abc import Callable
from typing import Any

import torch


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


uncompiled: Callable[..., Any] = torch.compiler.disable(_call)
"""`uncompiled(function, *args, **kwargs)` calls the function as it is written."""
