"""Weight files as they are stored: tensors by their names, with the formats of quantised ones. No weights are read."""

from pathlib import Path

from ...errors import CheckpointError
from . import comfy_quant, float8, foreign, gguf, gguf_in_safetensors, sharded, split_gguf
from .contents import Contents
from .folder import file_in


def read(path: Path) -> Contents:
    """What a safetensors or GGUF file has, or a checkpoint in several of them, or in a folder.

    Raises CheckpointError, naming the file, where one is missing, damaged, or of a kind that is not read here.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    file = _file(path)
    if gguf.is_gguf(file):
        return split_gguf.open_gguf(file)
    found = sharded.open_safetensors(file)
    tensors = comfy_quant.hosted(path, found.tensors, found.metadata)
    foreign.check(path, tensors)
    return found._replace(tensors=float8.quantised(path, gguf_in_safetensors.quantised(path, tensors)))


def index_of(path: Path) -> Path | None:
    """The index by which `read` finds the safetensors files of a checkpoint in several; None where it needs none.

    Raises CheckpointError like `read`.
    """
    file = _file(path)
    return None if gguf.is_gguf(file) else sharded.index_of(file)


def _file(path: Path) -> Path:
    return file_in(path) if path.is_dir() else path
