"""From a weight file to a network on one device."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..dit import AsymmDiT
from ..vae import Decoder, Encoder
from ..vae.cpu import CpuOperations
from ..vae.layers import in_order
from .checkpoint import Checkpoint
from .plan import fill

Source = Checkpoint | str | Path
"""A checkpoint, or the path of one that is to be opened."""

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
    return fill(opened(source).plan("dit", network, dtype, compute, operations), device)


def load_decoder(
    source: Source, dtype: torch.dtype | None = None, device: Device = None, operations: Any = CpuOperations
) -> Decoder:
    """AsymmVAE decoder of a decoder file or a combined one.

    dtype: of the weights; None: as stored, bfloat16 where these are quantised. Raises CheckpointError like `load_dit`.
    """
    return in_order(fill(opened(source).plan("decoder", None, dtype, None, operations), device), device)


def load_encoder(
    source: Source, dtype: torch.dtype | None = None, device: Device = None, operations: Any = CpuOperations
) -> Encoder:
    """AsymmVAE encoder of an encoder file or a combined one; see `load_decoder`."""
    return in_order(fill(opened(source).plan("encoder", None, dtype, None, operations), device), device)


def opened(source: Source) -> Checkpoint:
    """The checkpoint, opened if it is not yet."""
    return source if isinstance(source, Checkpoint) else Checkpoint.open(source)
