"""How far two results are apart, and how far rounding alone may put them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


def relative_error(found: Tensor, right: Tensor) -> float:
    """|found - right| / |right|: 2-norms over all values, in float64 on the CPU."""
    if found.shape != right.shape:
        raise ValueError(f"shape {tuple(found.shape)}, expected {tuple(right.shape)}")
    found, right = found.double().cpu(), right.double().cpu()
    return ((found - right).norm() / right.norm()).item()


def assert_close(found: Tensor, right: Tensor, within: float = 1e-5) -> None:
    """The relative error is at most `within`."""
    error = relative_error(found, right)
    assert error <= within, f"the relative error is {error:.2e}"


class InFloat64(TorchFunctionMode):
    """What is asked for in float32 inside is made in float64: networks do so in places, whatever their weights are."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        function = Tensor.double if function is Tensor.float else function
        args, kwargs = tree_map(lambda v: torch.float64 if v is torch.float32 else v, (args, kwargs or {}))
        return function(*args, **kwargs)


def float32_bound(network: nn.Module, on_one_device: Tensor, exact: Tensor) -> float:
    """How far another way through a network may be from what is exact, in float32 on any processor.

    Half as far again as one device, which has the same inputs, and so what the network makes of a rounding; beside one
    rounding of each layer's output, which in a row add up as a random walk does: one device can be lucky.
    """
    layers = sum(not list(module.children()) for module in network.modules())
    return 1.5 * relative_error(on_one_device, exact) + layers**0.5 * torch.finfo(torch.float32).eps / 2
