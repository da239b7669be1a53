"""From a weight file to a network on one device."""

from typing import Any

import torch
from torch import nn

from ..dit import AsymmDiT
from ..vae import Decoder, Encoder
from ..vae.cpu import CpuOperations
from ..vae.layers import in_order
from .checkpoint import Checkpoint, Source
from .plan import fill

Device = torch.device | str | None


def load_dit(
    source: Source,
    dtype: torch.dtype | None = None,
    device: Device = None,
    operations: Any = nn,
    network: type[AsymmDiT] = AsymmDiT,
    compute: torch.dtype | None = None,
) -> AsymmDiT:
    """AsymmDiT on `device`.

    Args:
        dtype: what weights are rounded to, see Checkpoint.plan. None leaves quantised weights quantised; a float8 dtype
            quantises those of Linear layers.
        compute: what weights that are not quantised are kept in, and all is computed in.

    Raises CheckpointError on any file but a whole AsymmDiT.
    """
    return fill(Checkpoint.open(source).plan("dit", network, dtype, compute, operations), device)


def load_decoder(
    source: Source, dtype: torch.dtype | None = None, device: Device = None, operations: Any = CpuOperations
) -> Decoder:
    """AsymmVAE decoder of a decoder file or a combined one.

    dtype: of the weights; None: as stored, bfloat16 where these are quantised. Raises CheckpointError like `load_dit`.
    """
    plan = Checkpoint.open(source).plan("decoder", weight_dtype=dtype, operations=operations)
    return in_order(fill(plan, device), device)


def load_encoder(
    source: Source, dtype: torch.dtype | None = None, device: Device = None, operations: Any = CpuOperations
) -> Encoder:
    """AsymmVAE encoder of an encoder file or a combined one; see `load_decoder`."""
    plan = Checkpoint.open(source).plan("encoder", weight_dtype=dtype, operations=operations)
    return in_order(fill(plan, device), device)
