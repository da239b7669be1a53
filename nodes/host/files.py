"""The model files that ComfyUI knows of, as the loaders list and check them, and the built-in model's own."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import comfy.text_encoders
import folder_paths

from ...mochi.checkpoint.load import check_file, contains
from ...mochi.checkpoint.readers.sharded import is_later_shard
from ...mochi.config import TINY_WEIGHTS
from ...mochi.errors import MochiError
from ...mochi.hub.catalog import hint
from ...mochi.text import check_encoder, layout
from ...mochi.text.tokenizer import has_tokenizer

TINY = "tiny (built in)"

FOLDERS = {
    "dit": ("diffusion_models", "checkpoints", "diffusers"),
    "vae": ("vae", "checkpoints", "diffusers"),
    "t5": ("text_encoders", "checkpoints", "diffusers"),
}
"""Where files of each kind lie; those of the whole model in `checkpoints`, diffusers' folders in `diffusers`."""

INNER = {"dit": "transformer", "vae": "vae", "t5": "text_encoder"}
"""The folder of each kind in one that holds a whole model as diffusers lays it out."""


def list_dits() -> list[str]:
    """The entries of a loader's list: the built-in model, then Hugging Face folders (with a slash behind) and files of
    ComfyUI's folders."""
    return _list("dit")


def list_vaes() -> list[str]:
    return _list("vae")


def list_text_encoders() -> list[str]:
    return _list("t5")


def find_dit(name: str) -> Path:
    """The path of an entry. Raises MochiError when there is no such file."""
    return TINY_WEIGHTS / "dit.safetensors" if name == TINY else _find(name, "dit")


def find_vae(name: str, encoder: str | None = None) -> tuple[Path, Path | None]:
    """The paths of a VAE's file and of the encoder's, None where that is to be in the same file."""
    file = TINY_WEIGHTS / "decoder.safetensors" if name == TINY else _find(name, "vae")
    if TINY in (encoder, name if encoder is None else ""):
        return file, TINY_WEIGHTS / "encoder.safetensors"
    return file, None if encoder is None else _find(encoder, "vae")


def find_text_encoder(name: str) -> Path:
    """The path of a file or folder."""
    return TINY_WEIGHTS / "t5" if name == TINY else _find(name, "t5")


def tokenizer_for(text_encoder: Path) -> Path | None:
    """The T5 tokenizer that ComfyUI ships, for a single file that has none beside it."""
    own = (text_encoder.parent, text_encoder.parent / "tokenizer")
    if text_encoder.is_dir() or any(map(has_tokenizer, own)):
        return None
    return Path(comfy.text_encoders.__path__[0]) / "t5_tokenizer"


def check_dit(name: str) -> None:
    """Raise MochiError unless the entry's file is there and an AsymmDiT. Reads no weights."""
    _check_file(find_dit(name), "dit")


def check_vae(name: str, encoder: str | None = None) -> None:
    """Raise MochiError unless the files are there and parts of an AsymmVAE. Reads no weights."""
    file, encoder_file = find_vae(name, encoder)
    parts = contains(file)
    if parts != {"encoder"}:
        _check_file(file, "decoder")
    if encoder_file is not None or "encoder" in parts:
        _check_file(encoder_file or file, "encoder")


def check_text_encoder(name: str) -> None:
    """Raise MochiError unless the entry's files are there and a T5 encoder. Reads no weights."""
    path = find_text_encoder(name)
    files = layout.find_text_encoder(path)
    check_encoder(files.weights, path, files.config)


def _list(kind: str) -> list[str]:
    folders = _hugging_face_folders(kind)
    inside = tuple(folder + os.sep for folder in folders)
    files = (name for folder in FOLDERS[kind] if folder != "diffusers" for name in _files(folder))
    shown = (name for name in files if not name.startswith(inside) and not is_later_shard(os.path.basename(name)))
    return list(dict.fromkeys([TINY, *(folder + "/" for folder in folders), *shown]))


def _files(folder: str) -> list[str]:
    """The files of one of ComfyUI's folders; it lists no GGUF itself."""
    found = (folder_paths.recursive_search(root)[0] for root in folder_paths.get_folder_paths(folder))
    return [*folder_paths.get_filename_list(folder), *(n for names in found for n in names if n.endswith(".gguf"))]


def _check_file(path: Path, part: str) -> None:
    state = path.stat()
    _check_unchanged_file(path, part, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _check_unchanged_file(path: Path, part: str, modified: int, size: int) -> None:
    """Remembered while the file is the same: the check is made whenever a prompt is queued."""
    check_file(path, part)


def _find(name: str, kind: str) -> Path:
    relative = os.path.relpath(os.path.join("/", name), "/")  # as the host does: `..` cannot leave a folder
    for root in _roots(kind):
        path = Path(root, relative)
        if name.endswith("/") and path.is_dir():
            inner = path / INNER[kind]
            return inner if kind != "t5" and inner.is_dir() else path
        if not name.endswith("/") and path.is_file():
            return path
    places = " or ".join(f"models/{folder}" for folder in FOLDERS[kind][:2])
    raise MochiError(
        f"There is no {name!r} in {places}. Put it there and refresh the page, or choose another. ({hint(name)}.)"
    )


def _roots(kind: str) -> list[str]:
    return [root for folder in FOLDERS[kind] for root in folder_paths.get_folder_paths(folder)]


def _hugging_face_folders(kind: str) -> list[str]:
    """Folders that hold a model as Hugging Face lays it out, outermost only."""
    found: dict[str, None] = {}
    for root in _roots(kind):
        for folder, below, files in os.walk(root, followlinks=True):
            nested = os.path.join(folder, INNER[kind], "config.json")
            if folder != root and ("config.json" in files or os.path.isfile(nested)):
                found[os.path.relpath(folder, root)] = None
                below.clear()
    return sorted(found)
