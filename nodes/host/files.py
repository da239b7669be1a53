"""The model files that ComfyUI knows of, as the loaders list and check them, and the built-in model's own."""

import glob
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import comfy.text_encoders
import folder_paths

from ...mochi.checkpoint import Checkpoint
from ...mochi.checkpoint.readers.sharded import SHARD, is_later_shard
from ...mochi.config import TINY_WEIGHTS
from ...mochi.errors import MochiError
from ...mochi.hub.catalog import hint
from ...mochi.text import open_text_encoder
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
    path = TINY_WEIGHTS / BUILT_IN[kind] if name == TINY else _find(name, kind)
    return _opened(path, open_text_encoder if kind == "t5" else Checkpoint.open)


def open_vae(name: str, encoder: str | None = None) -> tuple[Checkpoint | None, Checkpoint | None]:
    """The files of a VAE's decoder and encoder, None where there is none. They may be one file.

    encoder: the entry of the encoder's file, None where the encoder is to be in the same file.
    """
    file = open_file(name, "vae")
    if TINY in (encoder, name if encoder is None else ""):
        encoder_file = _opened(TINY_WEIGHTS / "encoder.safetensors", Checkpoint.open)
    elif encoder is not None:
        encoder_file = open_file(encoder, "vae")
    else:
        encoder_file = file if "encoder" in file.parts else None
    # A decoder is the rule; a file with neither fails there, saying what it is.
    return (None if file.parts.keys() == {"encoder"} else file), encoder_file


def tokenizer_for(text_encoder: Path) -> Path | None:
    """The T5 tokenizer that ComfyUI ships, for a single file that has none beside it."""
    own = (text_encoder.parent, text_encoder.parent / "tokenizer")
    if text_encoder.is_dir() or any(map(has_tokenizer, own)):
        return None
    return Path(comfy.text_encoders.__path__[0]) / "t5_tokenizer"


def check_file(name: str, kind: str) -> None:
    """Raise MochiError unless the entry's file is there and holds a whole "dit" or "t5". Reads no weights."""
    _check(open_file(name, kind), kind)


def check_vae(name: str, encoder: str | None = None) -> None:
    """Raise MochiError unless the files are there and parts of an AsymmVAE. Reads no weights."""
    for part, checkpoint in zip(("decoder", "encoder"), open_vae(name, encoder), strict=True):
        if checkpoint is not None:
            _check(checkpoint, part)


@lru_cache(maxsize=OPEN)
def _check(checkpoint: Checkpoint, part: str) -> None:
    """Check a part of a checkpoint. The result is remembered, since prompts are checked whenever they are queued."""
    checkpoint.check(part)


def _opened(path: Path, opens: Callable[[Path], Checkpoint]) -> Checkpoint:
    """A checkpoint. It stays open for the next node or prompt that wants it, as long as its files are unchanged."""
    states = ((file, file.stat()) for file in sorted(_files_of(path)) if file.is_file())
    return _open_unchanged(path, opens, tuple((file, state.st_mtime_ns, state.st_size) for file, state in states))


def _files_of(path: Path) -> Iterable[Path]:
    """The files that a checkpoint may be read from: those in a folder, or all of several parts by any one of them."""
    if path.is_dir():
        return path.rglob("*")
    part = SHARD.fullmatch(path.name)
    return [path] if part is None else path.parent.glob(f"{glob.escape(part[1])}*")


@lru_cache(maxsize=OPEN)
def _open_unchanged(path: Path, opens: Callable[[Path], Checkpoint], state: tuple) -> Checkpoint:
    return opens(path)


def _files(folder: str) -> list[str]:
    """The files of one of ComfyUI's folders; it lists no GGUF itself."""
    found = (folder_paths.recursive_search(root)[0] for root in folder_paths.get_folder_paths(folder))
    return [*folder_paths.get_filename_list(folder), *(n for names in found for n in names if n.endswith(".gguf"))]


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
