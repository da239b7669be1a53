"""A CUDA device that is not there: code for one runs here, and what would be slow or wrong on one is counted.

Tensors say that they are on cuda:0. With `PretendCuda()` they hold values, on the CPU; with `PretendCuda(values=False)`
only shapes, so that the published sizes cost nothing. All of it changes torch for the rest of the process.
"""

from .ledger import Ledger
from .mode import PretendCuda
from .tensor import OnCuda

__all__ = ["Ledger", "OnCuda", "PretendCuda"]
