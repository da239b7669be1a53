"""Weight files as they are stored: tensors by their names, with the formats of quantised ones. No weights are read."""

from pathlib import Path

from ...errors import CheckpointError
from . import float8, gguf, gguf_in_safetensors, sharded
from .contents import Contents


def read(path: Path) -> Contents:
    """What a safetensors or GGUF file has, or a checkpoint in several safetensors files.

    Raises CheckpointError, naming the file, where one is missing, damaged, or of a kind that is not read here.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    if gguf.is_gguf(path):
        return gguf.open_gguf(path)
    found = sharded.open_safetensors(path)
    tensors = gguf_in_safetensors.quantised(path, found.tensors)
    return found._replace(tensors=float8.quantised(path, tensors, found.metadata))
