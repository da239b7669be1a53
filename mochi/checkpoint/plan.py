"""A network without weights, where in a file its weights are, and how they come to it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..quant import FLOAT8, QUANT_DTYPE, Float8, QuantFormat, QuantLinear, quant_linears
from .check import check_numbers
from .hosted import HostTensor
from .lazy import LazyTensors, rounded

Network = TypeVar("Network", bound=nn.Module)

EXACT = ("pos_frequencies",)
"""Parameters that are never rounded: bfloat16 positions would be off by whole patches."""


@dataclass(frozen=True)
class Plan(Generic[Network]):
    """How to fill a network.

    Attributes:
        path: the checkpoint's, for messages.
        model: the network, its parameters on the meta device until it is filled.
        entries: a tensor on disk for each parameter of the network, and no others.
        dtypes: what the values of each parameter are rounded to; QUANT_DTYPE where it has the bytes of quantised ones.
    """

    path: Path
    model: Network
    entries: LazyTensors
    dtypes: dict[str, torch.dtype]

    def read(self, name: str, rows: slice) -> Tensor:
        """Some rows of a parameter: values, or the bytes of quantised ones, whose layer learns their format."""
        entry, dtype = self.entries[name], self.dtypes[name]
        layer = self.model.get_submodule(name.rpartition(".")[0])
        if dtype != QUANT_DTYPE or not isinstance(layer, QuantLinear):
            return entry.rows(rows.start, rows.stop).to(dtype)
        layer.quant, values = entry.quant_rows(rows.start, rows.stop)
        return values


class Placement(Protocol):
    """Which rows of each parameter a process has, and where it keeps them."""

    def rows(self, p: Tensor) -> slice:
        """The rows of a parameter that this process has."""
        ...

    def place(self, p: Tensor, rows: Tensor) -> Tensor:
        """These rows on their device, as what can take the parameter's place."""
        ...


class Whole:
    """All rows of every parameter, on one device. None leaves them as they are read, memory-mapped if they can be."""

    def __init__(self, device: torch.device | str | None):
        self._device = device

    def rows(self, p: Tensor) -> slice:
        return slice(0, p.shape[0])

    def place(self, p: Tensor, rows: Tensor) -> Tensor:
        return rows if self._device is None else rows.to(self._device)


def fill(
    plan: Plan[Network],
    device: torch.device | str | None = None,
    placement: Placement | None = None,
    on_tensor: Callable[[int, int], None] | None = None,
) -> Network:
    """The network with its weights, read one by one. Layers of the host read theirs themselves.

    Args:
        device: where the weights go, where there is no `placement`.
        placement: which rows go where.
        on_tensor: is told (tensors read, tensors in all) after each one. What it raises ends the loading.

    Raises CheckpointError, before anything is filled, on weights that are no numbers.
    """
    placement = placement or Whole(device)
    check_numbers(plan.path, plan.entries)
    for done, (name, entry) in enumerate(plan.entries.items(), 1):
        if isinstance(entry, HostTensor):
            layer: Any = plan.model.get_submodule(name.removesuffix(".weight"))
            layer.load_hosted(entry, device)
        else:
            assign(plan.model, name, plan.read(name, placement.rows(plan.model.get_parameter(name))), placement)
        if on_tensor is not None:
            on_tensor(done, len(plan.entries))
    return plan.model


def assign(model: nn.Module, name: str, values: Tensor, placement: Placement) -> None:
    """Replace a parameter, or this process's rows of it. The old ones are free at once."""
    old = model.get_parameter(name)
    module, _, leaf = name.rpartition(".")
    placed = placement.place(old, values.to(old.dtype))
    # By way of the state dict, where FSDP notices.
    model.get_submodule(module).load_state_dict({leaf: placed}, strict=False, assign=True)


def quantise(
    model: nn.Module, entries: LazyTensors, weight_dtype: torch.dtype | None, kept: torch.dtype, operations: Any = nn
) -> LazyTensors:
    """Put a QuantLinear in place of each Linear layer of a model whose weights are quantised, or are to be.

    Args:
        model: on the meta device.
        weight_dtype: None where quantised weights stay so, a float8 dtype where all others are rounded to it. With any
            other nothing stays quantised.
        kept: the dtype that most of the model is in. A layer in another one computes in that.

    Returns the entries for the model's parameters.
    """
    if weight_dtype is not None and weight_dtype not in FLOAT8:
        return entries
    linears = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    quants: dict[str, QuantFormat] = {n: e.quant for n, e in entries.items() if n in linears and e.quant is not None}
    if weight_dtype is not None:
        plain = {n for n, e in entries.items() if n in linears and n not in quants and not isinstance(e, HostTensor)}
        quants |= dict.fromkeys(plain, Float8(weight_dtype))
        entries = {n: rounded(e, weight_dtype) if n in plain else e for n, e in entries.items()}
    quant_linears(model, quants, getattr(operations, "QuantLinear", QuantLinear))
    for name in quants:
        layer, dtype = model.get_submodule(name.removesuffix(".weight")), linears[name].weight.dtype
        if isinstance(layer, QuantLinear) and dtype != kept:
            layer.compute = dtype
    return entries


def rounding(model: nn.Module, weight_dtype: torch.dtype | None, kept: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype that each parameter is rounded to: `weight_dtype`, if any, for parameters in `kept`."""
    return {
        name: weight_dtype if weight_dtype and p.dtype == kept and name not in EXACT else p.dtype
        for name, p in model.named_parameters()
    }
