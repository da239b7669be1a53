"""Weights in formats of ComfyUI's quantiser that only its own layers can read, such as nvfp4.

What the core has to know of them is their names and shapes. Layers that read them come from the `operations` of a
network, which have `HOSTED`, the formats, and `HostLinear`, a class of HostLayer.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .lazy import JoinedTensor, LazyTensor, LazyTensors

ADVICE = "take its bfloat16, scaled float8 or GGUF weights instead"
"""What to do about weights in a format that is not read."""


@dataclass(frozen=True)
class HostTensor(LazyTensor):
    """A weight as ComfyUI's quantiser stores it.

    Attributes:
        name: the file's and the tensor's, for messages.
        kind: the name of its format.
        conf: what the file says of the layer's quantisation, as the host wants it.
        stored: the tensors that make up the weight, by the last parts of their names.
    """

    quant: None = field(default=None, init=False)
    name: str
    kind: str
    conf: Mapping[str, Any]
    stored: LazyTensors

    def rows(self, start: int, stop: int) -> Tensor:
        raise CheckpointError(f"{self.name} is in {self.kind} of ComfyUI's quantiser; {ADVICE}")


class HostLayer(Protocol):
    """A Linear layer of the host."""

    def load_hosted(self, entry: HostTensor, device: torch.device | str | None) -> None:
        """Take the weight, as it is stored. None leaves it memory-mapped.

        Raises CheckpointError on tensors that do not make up a weight in that format.
        """
        ...

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight (out_features, in_features)."""
        ...


@dataclass(frozen=True)
class DequantizedTensor(LazyTensor):
    """The values of a weight, which is always read whole.

    Attributes:
        layer: the class of HostLayer that reads it.
    """

    quant: None = field(default=None, init=False)
    source: HostTensor
    layer: Any

    def rows(self, start: int, stop: int) -> Tensor:
        rows, columns = self.shape
        layer = self.layer(columns, rows, False, device="cpu", dtype=torch.float32)
        layer.load_hosted(self.source, None)
        return layer.dequantized(torch.float32)[start:stop]


def check_hosted(path: Path, title: str, entries: LazyTensors, hosted: Collection[str]) -> None:
    """Raise CheckpointError where a weight is in a format that is not among `hosted`."""
    kinds = {kind for entry in entries.values() for kind in kinds_of(entry)}
    if unread := ", ".join(sorted(kinds.difference(hosted))):
        raise CheckpointError(
            f"{path}: a {title} in {unread} of ComfyUI's quantiser; only a ComfyUI that has this format reads it, in "
            f"its own process, so on one GPU; elsewhere {ADVICE}"
        )


def kinds_of(entry: LazyTensor) -> set[str]:
    """The formats of a tensor that only the host can read."""
    if isinstance(entry, JoinedTensor):
        return {kind for piece in entry.pieces for kind in kinds_of(piece.entry)}
    return {entry.kind} if isinstance(entry, HostTensor) else set()


def host_layers(model: nn.Module, entries: LazyTensors, keep: bool, layer: Any) -> LazyTensors:
    """Put a layer of the host in place of each Linear layer whose weight only the host can read.

    Args:
        model: on the meta device.
        keep: whether weights stay quantised. If not, and in layers of other kinds, they are dequantised when read.
        layer: the class of the new layers.

    Returns the entries for the model's parameters.
    """
    found = {name: entry if isinstance(entry, HostTensor) else _plain(entry, layer) for name, entry in entries.items()}
    for name, entry in entries.items():
        if not isinstance(entry, HostTensor):
            continue
        path, _, leaf = name.rpartition(".")
        old = model.get_submodule(path)
        if not keep or leaf != "weight" or not isinstance(old, nn.Linear):
            found[name] = _plain(entry, layer)
            continue
        factory = {"device": old.weight.device, "dtype": old.weight.dtype}
        new = layer(old.in_features, old.out_features, old.bias is not None, **factory)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, new.train(old.training))
    return found


def _plain(entry: LazyTensor, layer: Any) -> LazyTensor:
    """The tensor, dequantised when it is read where only the host can read it."""
    if isinstance(entry, HostTensor):
        return DequantizedTensor(entry.shape, entry.dtype, entry, layer)
    if isinstance(entry, JoinedTensor) and kinds_of(entry):
        pieces = (piece._replace(entry=_plain(piece.entry, layer)) for piece in entry.pieces)
        return replace(entry, pieces=tuple(pieces))
    return entry
