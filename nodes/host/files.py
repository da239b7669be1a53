"""The model files that ComfyUI knows of, as the loaders list and check them, and the built-in model's own."""

import glob
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path, PurePath

import comfy.text_encoders
import folder_paths

from ...mochi.checkpoint import Checkpoint
from ...mochi.checkpoint.readers.sharded import SHARD, is_later_shard
from ...mochi.config import TINY_WEIGHTS
from ...mochi.errors import MochiError
from ...mochi.hub.catalog import hint
from ...mochi.text import open_text_encoder
from ...mochi.text.tokenizer import has_tokenizer
from .folders import files_below, find_below
from .unchanged import Version, check, version_of

TINY = "tiny (built in)"

FOLDERS = {
    "dit": ("diffusion_models", "checkpoints", "diffusers"),
    "vae": ("vae", "checkpoints", "diffusers"),
    "t5": ("text_encoders", "checkpoints", "diffusers"),
}
"""Where files of each kind lie; those of the whole model in `checkpoints`, diffusers' folders in `diffusers`."""

INNER = {"dit": "transformer", "vae": "vae", "t5": "text_encoder"}
"""The folder of each kind in one that holds a whole model as diffusers lays it out."""

BUILT_IN = {"dit": "dit.safetensors", "vae": "decoder.safetensors", "t5": "t5"}
"""The file of each kind of the built-in model, below TINY_WEIGHTS. Its encoder is in a file beside the decoder's."""

OPEN = 8
"""Checkpoints that are kept open."""


def list_files(kind: str) -> list[str]:
    """The entries of a loader's list: the built-in model, then what is in ComfyUI's folders.

    Hugging Face folders come before files, and have a slash at the end.
    """
    folders = _hugging_face_folders(kind)
    inside = tuple(folder + os.sep for folder in folders)
    files = (name for folder in FOLDERS[kind] if folder != "diffusers" for name in _files(folder))
    shown = (name for name in files if not name.startswith(inside) and not is_later_shard(os.path.basename(name)))
    return list(dict.fromkeys([TINY, *(folder + "/" for folder in folders), *shown]))


def open_file(name: str, kind: str) -> Checkpoint:
    """The file or folder of an entry. Raises MochiError when there is none, or it cannot be opened."""
    return _open(_version(name, kind), kind)


def open_vae(name: str, encoder: str | None = None) -> tuple[Checkpoint | None, Checkpoint | None]:
    """The files of a VAE's decoder and encoder, None where there is none. They may be one file.

    encoder: the entry of the encoder's file, None where the encoder is to be in the same file.
    """
    return _open_vae(*_vae_versions(name, encoder))


def tokenizer_for(text_encoder: Path) -> Path | None:
    """The T5 tokenizer that ComfyUI ships, for a single file that has none beside it."""
    own = (text_encoder.parent, text_encoder.parent / "tokenizer")
    if text_encoder.is_dir() or any(map(has_tokenizer, own)):
        return None
    return Path(comfy.text_encoders.__path__[0]) / "t5_tokenizer"


def check_file(name: str, kind: str) -> None:
    """Raise MochiError unless the entry's file is there and holds a whole "dit" or "t5". Reads no weights."""
    check(_CHECKS[kind], _version(name, kind))


def check_vae(name: str, encoder: str | None = None) -> None:
    """Raise MochiError unless the files are there and parts of an AsymmVAE. Reads no weights."""
    check(_check_vae, *_vae_versions(name, encoder))


def _check_dit(version: Version) -> None:
    _open(version, "dit").check("dit")


def _check_t5(version: Version) -> None:
    _open(version, "t5").check("t5")


_CHECKS = {"dit": _check_dit, "t5": _check_t5}


def _check_vae(version: Version, encoder: Version | None) -> None:
    for part, checkpoint in zip(("decoder", "encoder"), _open_vae(version, encoder), strict=True):
        if checkpoint is not None:
            checkpoint.check(part)


def _vae_versions(name: str, encoder: str | None) -> tuple[Version, Version | None]:
    """Those of the entries. The built-in model's encoder is beside its decoder's file."""
    beside = TINY_WEIGHTS / "encoder.safetensors"
    if TINY in (encoder, name if encoder is None else ""):
        return _version(name, "vae"), version_of(beside, [beside])
    return _version(name, "vae"), None if encoder is None else _version(encoder, "vae")


def _open_vae(version: Version, encoder: Version | None) -> tuple[Checkpoint | None, Checkpoint | None]:
    file = _open(version, "vae")
    if encoder is not None:
        encoder_file = _open(encoder, "vae")
    else:
        encoder_file = file if "encoder" in file.parts else None
    # A decoder is the rule; a file with neither fails there, saying what it is.
    return (None if file.parts.keys() == {"encoder"} else file), encoder_file


def _version(name: str, kind: str) -> Version:
    """What an entry stands for, as it is now. Raises MochiError when there is nothing."""
    path = TINY_WEIGHTS / BUILT_IN[kind] if name == TINY else _find(name, kind)
    return version_of(path, _files_of(path))


def _open(version: Version, kind: str) -> Checkpoint:
    return _opened(version, open_text_encoder if kind == "t5" and version.path.is_dir() else Checkpoint.open)


@lru_cache(maxsize=OPEN)
def _opened(version: Version, opens: Callable[[Path], Checkpoint]) -> Checkpoint:
    """A checkpoint. It stays open for the next node or prompt that wants it, as long as its files are unchanged."""
    return opens(version.path)


def _files_of(path: Path) -> Iterable[Path]:
    """The files that a checkpoint may be read from: those in a folder, or all of several parts by any one of them."""
    if path.is_dir():
        return path.rglob("*")
    part = SHARD.fullmatch(path.name)
    return [path] if part is None else path.parent.glob(f"{glob.escape(part[1])}*")


def _files(folder: str) -> list[str]:
    """The files of one of ComfyUI's folders, of the kinds that it lists itself, and GGUF."""
    kinds = folder_paths.folder_names_and_paths[folder][1]
    names = {name for root in folder_paths.get_folder_paths(folder) for name in files_below(root)}
    return folder_paths.filter_files_extensions(names, {*kinds, ".gguf"} if kinds else ())


def _find(name: str, kind: str) -> Path:
    path = find_below(_roots(kind), name)
    if path is None:
        places = " or ".join(f"models/{folder}" for folder in FOLDERS[kind][:2])
        raise MochiError(
            f"There is no {name!r} in {places}. Put it there and refresh the page, or choose another. ({hint(name)}.)"
        )
    inner = path / INNER[kind]
    return inner if kind != "t5" and path.is_dir() and inner.is_dir() else path


def _roots(kind: str) -> list[str]:
    return [root for folder in FOLDERS[kind] for root in folder_paths.get_folder_paths(folder)]


def _hugging_face_folders(kind: str) -> list[str]:
    """Folders that hold a model as Hugging Face lays it out, outermost only."""
    found: set[str] = set()
    for root in _roots(kind):
        configs = [PurePath(file).parent for file in files_below(root) if os.path.basename(file) == "config.json"]
        whole = {*configs, *(folder.parent for folder in configs if folder.name == INNER[kind])} - {PurePath()}
        found |= {str(folder) for folder in whole if whole.isdisjoint(folder.parents)}
    return sorted(found)
