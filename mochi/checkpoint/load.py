"""From a weight file to a network: recognised, checked, then filled tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..dit import AsymmDiT
from ..errors import CheckpointError
from ..quant import FLOAT8, QUANT_DTYPE, QuantLinear, quant_linears
from ..vae import Decoder, Encoder
from ..vae.layers import in_order
from .check import check_numbers, check_tensors
from .file import LazyTensors, WeightFile, first_few, open_weights
from .identify import TITLES, parts_of, seems_to_be
from .infer import decoder_config, dit_config, encoder_config
from .lazy import LazyTensor, Rounded

Network = TypeVar("Network", bound=nn.Module)
Device = torch.device | str | None

NETWORKS: dict[str, type[nn.Module]] = {"dit": AsymmDiT, "decoder": Decoder, "encoder": Encoder}
CONFIGS: dict[str, Callable[..., Any]] = {"dit": dit_config, "decoder": decoder_config, "encoder": encoder_config}


def load_dit(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: Device = None,
    operations: Any = nn,
    network: type[AsymmDiT] = AsymmDiT,
    compute: torch.dtype | None = None,
) -> AsymmDiT:
    """AsymmDiT of a file, on `device`.

    dtype: of the weights. None leaves packed weights packed; a float8 dtype packs those of Linear layers so.
    compute: of all that is not packed where `dtype` does not say, and to compute in; None: as most of the file is.
    Raises CheckpointError on any file but a whole AsymmDiT.
    """
    return _load(path, "dit", network, dtype, device, operations, compute)


def load_decoder(
    path: str | Path, dtype: torch.dtype | None = None, device: Device = None, operations: Any = nn
) -> Decoder:
    """AsymmVAE decoder of a decoder file or a combined one, in `dtype` (None: as stored, packed ones in bfloat16).

    Raises CheckpointError like `load_dit`.
    """
    return in_order(_load(path, "decoder", Decoder, dtype, device, operations), device)


def load_encoder(
    path: str | Path, dtype: torch.dtype | None = None, device: Device = None, operations: Any = nn
) -> Encoder:
    """AsymmVAE encoder of an encoder file or a combined one; see `load_decoder`."""
    return in_order(_load(path, "encoder", Encoder, dtype, device, operations), device)


def read_config(path: str | Path, part: str) -> Any:
    """Sizes of one part ("dit", "decoder", "encoder") of a file, without reading weights.

    Raises CheckpointError when the part is not in the file or tensors are missing.
    """
    file = open_weights(path)
    return _config_of(file, part, entries_of(file, part))


def contains(path: str | Path) -> set[str]:
    """Which parts of a Mochi ("dit", "decoder", "encoder", "t5") a file holds; raises CheckpointError if unreadable."""
    return set(parts_of(open_weights(path)))


def check_file(path: str | Path, part: str) -> None:
    """Raise CheckpointError unless one part ("dit", "decoder", "encoder") of a file is whole. Reads no weights."""
    blueprint(path, part, NETWORKS[part])


def _load(
    path: str | Path,
    part: str,
    network: type[Network],
    dtype: torch.dtype | None,
    device: Device,
    operations: Any,
    compute: torch.dtype | None = None,
) -> Network:
    model, entries = blueprint(path, part, network, dtype, operations, compute)
    check_numbers(Path(path), entries)
    find_scales(model, entries)
    weights = {name: values_for(p.dtype, entries[name]).to(device) for name, p in model.named_parameters()}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()


def blueprint(
    path: str | Path,
    part: str,
    network: type[Network],
    dtype: torch.dtype | None = None,
    operations: Any = nn,
    compute: torch.dtype | None = None,
) -> tuple[Network, LazyTensors]:
    """The network of a part without its weights, and where in the file they are, all of them and no others.

    operations: its layers come from there; QuantLinear too, if it is there. Raises CheckpointError like `load_dit`.
    """
    file = open_weights(path)
    entries = entries_of(file, part)
    config = _config_of(file, part, entries)
    plain = (None if dtype in FLOAT8 else dtype) or compute or stored_dtype(entries)
    try:
        model = network(config, dtype=plain, device="meta", operations=operations)
    except (RuntimeError, ValueError, ZeroDivisionError, OverflowError, TypeError) as error:
        raise CheckpointError(f"{file.path}: a {TITLES[part]} of sizes that cannot be: {error}") from error
    check_tensors(file.path, TITLES[part], entries, dict(model.named_parameters()))
    if part == "dit":
        entries = pack(model, entries, dtype, operations)
    return model, entries


def pack(model: nn.Module, entries: LazyTensors, dtype: torch.dtype | None, operations: Any = nn) -> LazyTensors:
    """Layers over packed weights for a model on the meta device, wherever the file or `dtype` (see `load_dit`) wants
    them. Returns the entries for its parameters."""
    if dtype is not None and dtype not in FLOAT8:
        return entries
    linears = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if dtype is not None:
        rounded = {n: Rounded(e, dtype) for n, e in entries.items() if n in linears and e.quant is None}
        entries = entries | rounded
    quants = {n: e.quant for n, e in entries.items() if n in linears and e.quant is not None}
    quant_linears(model, quants, getattr(operations, "QuantLinear", QuantLinear))
    return entries


def find_scales(model: nn.Module, entries: LazyTensors) -> None:
    """Give those layers their scale whose weights are packed while loading. Reads these."""
    for name, entry in entries.items():
        if isinstance(entry, Rounded):
            model.get_submodule(name.removesuffix(".weight")).quant = entry.find_scale()


def values_for(dtype: torch.dtype, entry: LazyTensor, rows: slice | None = None) -> Tensor:
    """What a parameter of that dtype is to hold, all of it or some rows: the values, or the bytes of a packed one."""
    start, stop = (0, entry.shape[0]) if rows is None else (rows.start, rows.stop)
    return entry.packed(start, stop) if dtype == QUANT_DTYPE else entry.rows(start, stop).to(dtype)


def stored_dtype(entries: Mapping[str, LazyTensor]) -> torch.dtype | None:
    """The dtype of most of a file's values; bfloat16 where these are packed."""
    sizes: dict[torch.dtype | None, int] = {}
    for entry in entries.values():
        dtype = torch.bfloat16 if entry.quant is not None or entry.dtype in FLOAT8 else entry.dtype
        sizes[dtype] = sizes.get(dtype, 0) + math.prod(entry.shape)
    return max(sizes, key=sizes.get)


def entries_of(file: WeightFile, part: str) -> LazyTensors:
    """The tensors of one part ("dit", "decoder", "encoder", "t5"). Raises CheckpointError, saying what the file is."""
    found = parts_of(file)
    if part not in found:
        raise CheckpointError(
            f"{file.path}: not a {TITLES[part]}; it seems to be {seems_to_be(file)} "
            f"(its tensors: {first_few(file.entries)})"
        )
    return found[part]


def _config_of(file: WeightFile, part: str, entries: LazyTensors) -> Any:
    try:
        return CONFIGS[part](entries, file.metadata)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file.path}: a {TITLES[part]} with tensors missing or misshapen: {error}") from error
