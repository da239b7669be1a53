"""What blocks that are compiled need in a parallel run. Kept apart, since torch.compile takes seconds to import."""

from __future__ import annotations

import torch

from .ulysses import UlyssesAttention


class UncompiledUlysses(UlyssesAttention):
    """A compiled block leaves its code to talk to the other ranks."""

    __call__ = torch.compiler.disable(UlyssesAttention.__call__)
