"""What a computation gives without rounding, and how far float32 may be from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from tests.golden import relative_error


class InFloat64(TorchFunctionMode):
    """What is asked for in float32 inside is made in float64: networks do so in places, whatever their weights are."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        function = Tensor.double if function is Tensor.float else function
        args, kwargs = tree_map(lambda v: torch.float64 if v is torch.float32 else v, (args, kwargs or {}))
        return function(*args, **kwargs)


def float32_error(compute: Callable[[Tensor], Tensor], x: Tensor, exact: Tensor, samples: int = 4) -> float:
    """The most by which `compute` misses what is exact for x, over inputs that are x but for their last bit: each has
    its values rounded in other places, and all have what the computation makes of a rounding."""
    generator = torch.Generator().manual_seed(0)
    ulp = torch.finfo(torch.float32).eps / 2
    near = [x * (1 + ulp * torch.randn(x.shape, generator=generator)) for _ in range(samples)]
    return max(relative_error(compute(one), exact) for one in (x, *near))
