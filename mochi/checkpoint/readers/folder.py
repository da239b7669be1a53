"""The checkpoint in a folder, as Hugging Face's libraries lay it out."""

import re
from pathlib import Path

from ...errors import CheckpointError, first_few
from .shards import GGUF, SAFETENSORS, Shard, weight_files

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")

STANDARD = re.compile(r"(model|diffusion_pytorch_model)(\.\w+)?(-\d{5}-of-\d{5})?\.safetensors")


def is_standard(name: str) -> bool:
    """Whether a file has the name that Hugging Face's libraries give to weights of any model."""
    return bool(STANDARD.fullmatch(name))


def file_in(folder: Path) -> Path:
    """The file of a folder's checkpoint, or the index of one in several files.

    Of several, it is the one with Hugging Face's name, or with the shortest: others are variants. GGUF is read where
    there is nothing else. Raises CheckpointError where there is no file, or no telling which one it is.
    """
    safetensors = weight_files(folder, SAFETENSORS)
    files = [file for file in safetensors if Shard.of(file.name) is None]
    indices = sorted(folder.glob("*.safetensors.index*.json"), key=lambda file: (len(file.name), file.name))
    if indices and not any(is_standard(file.name) for file in files):
        return indices[0]
    files = sorted(files or safetensors or weight_files(folder, GGUF), key=_preference)
    if not files:
        pickles = any(file.suffix in PICKLES for file in folder.iterdir())
        raise CheckpointError(
            f"{folder}: its weights are only there as a pickle, which could run code and is never loaded; download or "
            "convert to safetensors"
            if pickles
            else f"{folder}: there are no weights (*.safetensors, *.gguf) in this folder"
        )
    if len(files) > 1 and _preference(files[0]) == _preference(files[1]):
        names = first_few(file.name for file in files)
        raise CheckpointError(f"{folder}: several weight files ({names}) and no index; choose one of them")
    return files[0]


def _preference(file: Path) -> tuple[bool, int]:
    return not is_standard(file.name), len(file.name)
