"""A checkpoint: weight files that were opened once, and what they hold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import CheckpointError, first_few
from ..quant import FLOAT8
from .check import check_tensors
from .hosted import check_hosted, host_layers, kinds_of
from .layouts import ADVICE, TITLES, Parts, find_parts, seems_to_be
from .lazy import LazyTensors
from .networks import QUANTISED, config_of, empty_network, parameter_shapes, shapes_of
from .plan import Plan, quantise, rounding
from .readers import read

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One or several weight files, opened. No weights are read before they are asked for.

    A part of a Mochi is "dit", "decoder", "encoder" or "t5".

    Attributes:
        path: what was opened: a file, an index or a folder.
        tensors: all tensors, under the names that the files have for them.
        metadata: the text that is stored beside the tensors.
        files: the files that the tensors are in.
    """

    path: Path
    tensors: LazyTensors
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @classmethod
    def open(cls, source: Source) -> Checkpoint:
        """Open a safetensors file, a GGUF file, or a checkpoint in several safetensors files.

        source: a file; or the folder, the index or any one file of a checkpoint in several. A checkpoint that is open
            is returned as it is.

        Raises CheckpointError on anything that is missing, cut short, corrupt or of another kind. Pickles are never
        opened: loading one runs the code that is in it.
        """
        if isinstance(source, Checkpoint):
            return source
        contents = read(Path(source))
        return cls(Path(source), contents.tensors, contents.metadata, contents.files)

    @cached_property
    def _found(self) -> tuple[str | None, Parts]:
        try:
            return find_parts(self.tensors)
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    @property
    def layout(self) -> str | None:
        """Whose names the tensors have, such as "diffusers"; None where nothing of a Mochi is found."""
        return self._found[0]

    @property
    def parts(self) -> Parts:
        """The tensors of each part that is found, under published names."""
        return self._found[1]

    @property
    def nbytes(self) -> int:
        """The size of the files."""
        return sum(file.stat().st_size for file in self.files)

    def describe(self) -> str:
        """The kind of checkpoint that this seems to be, such as `the Mochi AsymmVAE decoder` or `a LoRA`."""
        return seems_to_be(self.tensors, self.parts)

    def entries(self, part: str) -> LazyTensors:
        """The tensors of a part, under published names. Raises CheckpointError, saying what the file seems to be."""
        if part not in self.parts:
            raise CheckpointError(
                f"{self.path}: not a {TITLES[part]}; it seems to be {self.describe()} "
                f"(its tensors: {first_few(self.tensors)}){ADVICE.get(part, '')}"
            )
        return self.parts[part]

    def config(self, part: str) -> Any:
        """The sizes of a part: a DiTConfig, DecoderConfig, EncoderConfig, or T5Config of transformers.

        Raises CheckpointError when the part is not there or tensors are missing.
        """
        sources = self.entries(part), self.metadata, self.path
        return self._made(part, "with tensors missing or misshapen", config_of, part, *sources)

    def dtype(self, part: str) -> torch.dtype:
        """The dtype of most values of a part; bfloat16 where these are quantised."""
        sizes: Counter[torch.dtype | None] = Counter()
        for entry in self.entries(part).values():
            quantised = entry.quant is not None or entry.dtype in FLOAT8
            sizes[torch.bfloat16 if quantised else entry.dtype] += math.prod(entry.shape)
        return sizes.most_common(1)[0][0] or torch.bfloat16

    def count(self, part: str) -> int:
        """How many values a part has."""
        return sum(math.prod(entry.shape) for entry in self.entries(part).values())

    def check(self, part: str, hosted: Collection[str] = ()) -> None:
        """Raise CheckpointError unless a part is whole, and in formats that can be read. Reads no weights.

        hosted: the formats of ComfyUI's quantiser that layers of the host read.
        """
        check_hosted(self.path, TITLES[part], self.entries(part), hosted)
        wanted = self._made(part, "of sizes that cannot be", parameter_shapes, part, self.config(part))
        check_tensors(self.path, TITLES[part], self.entries(part), wanted)

    def plan(
        self,
        part: str,
        network: type[nn.Module] | None = None,
        weight_dtype: torch.dtype | None = None,
        compute_dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> Plan[Any]:
        """The network of a part on the meta device, and where in the files its weights are. Reads no weights.

        Args:
            network: the class to build, where it is not the part's own.
            weight_dtype: what weights are rounded to. None leaves quantised weights quantised, and rounds no others; a
                float8 dtype quantises the weights of Linear layers.
            compute_dtype: what weights that are not quantised are kept in. None is `weight_dtype` where that is no
                float8 dtype, and else the dtype of most of the file.
            operations: where the network's layers come from, QuantLinear and HostLinear too where it has them.

        Raises CheckpointError on anything but a whole network.
        """
        entries = self.entries(part)
        check_hosted(self.path, TITLES[part], entries, getattr(operations, "HOSTED", ()))
        config = self.config(part)
        plain = None if weight_dtype in FLOAT8 else weight_dtype
        kept = compute_dtype or plain or self.dtype(part)
        build = empty_network, part, config, kept, operations, network
        model = self._made(part, "of sizes that cannot be", *build)
        check_tensors(self.path, TITLES[part], entries, shapes_of(model))
        if any(map(kinds_of, entries.values())):
            entries = host_layers(model, entries, plain is None, operations.HostLinear)
        if part in QUANTISED:
            entries = quantise(model, entries, weight_dtype, kept, operations)
        return Plan(self.path, model.requires_grad_(False).eval(), entries, rounding(model, plain, kept))

    def _made(self, part: str, complaint: str, make: Callable[..., Made], *args: Any) -> Made:
        """The result of `make`. Raises CheckpointError with the complaint where a part makes it fail."""
        try:
            return make(*args)
        except CheckpointError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{self.path}: a {TITLES[part]} {complaint}: {error}") from error


Source = Checkpoint | str | Path
"""A checkpoint, or the path of one that is to be opened."""
