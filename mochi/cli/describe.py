"""Describes a weight file: how it is quantised, which parts of a Mochi are in it, and what they lack."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..checkpoint.hosted import kinds_of
from ..checkpoint.layouts import TITLES
from ..checkpoint.lazy import LazyTensor, LazyTensors
from ..errors import CheckpointError, first_few
from ..hub.catalog import readable
from ..lora.adapters import find_adapters, is_lora
from ..variant import variant_of

LOADERS = {
    "dit": "Load AsymmDiT (Mochi)",
    "decoder": "Load AsymmVAE (Mochi)",
    "encoder": "Load AsymmVAE (Mochi)",
    "t5": "Load T5 (Mochi)",
}
"""The node that takes each part."""


@dataclass(frozen=True)
class Part:
    """One network in a file.

    Attributes:
        part: "dit", "decoder", "encoder" or "t5".
        title: what people call it.
        loader: the node that takes it.
        parameters: how many.
        kinds: how many of them are of which dtype or quantised format.
        problem: why it cannot be used, None where it is whole.
    """

    part: str
    title: str
    loader: str
    parameters: int
    kinds: dict[str, int]
    problem: str | None


@dataclass(frozen=True)
class Description:
    """The description of a file, or of a checkpoint's folder.

    Attributes:
        bytes: its size.
        layout: whose names the tensors have, None where nothing of a Mochi is in it.
        seems_to_be: in words.
        parts: the networks in it.
        lacks: what it does not have, in words.
        names: a few tensors, where nothing of a Mochi is in it.
        lora: what a LoRA is, or why it is not one for Mochi.
        metadata: short texts that are stored beside the tensors.
        variant: which Mochi a denoiser is taken for, one of VARIANTS; None where there is no denoiser.
    """

    path: str
    bytes: int
    layout: str | None
    seems_to_be: str
    parts: tuple[Part, ...] = ()
    lacks: tuple[str, ...] = ()
    names: str = ""
    lora: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    variant: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        out = [f"{self.path}: {readable(self.bytes)}, {self.seems_to_be}"]
        if self.lora is not None:
            return [*out, f"  {self.lora}"]
        if self.layout is None:
            return [*out, f"  nothing of a Mochi is in it (its tensors: {self.names})"]
        out[0] += f", {self.layout} layout"
        for part in self.parts:
            kinds = ", ".join(f"{count / part.parameters:.1%} {kind}" for kind, count in part.kinds.items())
            out.append(f"  {part.title}: {part.parameters:,} parameters ({kinds})")
            out.append(f"    {part.problem}" if part.problem else f"    whole; goes into {part.loader}")
        if self.variant is not None:
            out.append(f"  taken for the variant {self.variant}, by its metadata and name")
        return [*out, *(f"  lacks: {what}" for what in self.lacks)]


def describe(path: str | Path) -> Description:
    """Describe a file or a checkpoint's folder. Reads no weights. Raises CheckpointError when it cannot be opened."""
    file = Checkpoint.open(path)
    layout, found, size = file.layout, file.parts, file.nbytes
    if layout is None:
        names = first_few(file.tensors)
        return Description(str(path), size, None, file.describe(), names=names, lora=_lora(file))
    parts = tuple(_part(file, part, entries) for part, entries in found.items())
    decodes_only = "decoder" in found and "encoder" not in found
    lacks = (f"{TITLES['encoder']} (it decodes, but does not encode)",) if decodes_only else ()
    variant = variant_of(file.path, file.metadata)[0] if "dit" in found else None
    metadata = _short(file.metadata)
    return Description(str(path), size, layout, file.describe(), parts, lacks, metadata=metadata, variant=variant)


def _part(file: Checkpoint, part: str, entries: LazyTensors) -> Part:
    kinds: Counter[str] = Counter()
    for entry in entries.values():
        kinds[_kind(entry)] += math.prod(entry.shape)
    return Part(part, TITLES[part], LOADERS[part], kinds.total(), dict(kinds.most_common()), _problem(file, part))


def _lora(file: Checkpoint) -> str | None:
    if not is_lora(file.tensors):
        return None
    try:
        adapters = find_adapters(file)
    except CheckpointError as error:
        return str(error).removeprefix(f"{file.path}: ")
    ranks = sorted({adapter.rank for adapter in adapters if adapter.rank})
    of_rank = f" of rank {ranks[0]}" if len(ranks) == 1 else f" of rank {ranks[0]} to {ranks[-1]}" if ranks else ""
    return f"a LoRA for Mochi: {len(adapters)} layers{of_rank}; goes into Load LoRA (Mochi)"


def _kind(entry: LazyTensor) -> str:
    if hosted := kinds_of(entry):
        return " and ".join(sorted(hosted))
    return str(entry.dtype).removeprefix("torch.") if entry.quant is None else entry.quant.title


def _problem(file: Checkpoint, part: str) -> str | None:
    try:
        file.check(part)
    except CheckpointError as error:
        return str(error).removeprefix(f"{file.path}: ")
    return None


def _short(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if len(value) <= 200}
