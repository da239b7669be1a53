"""The model files that ComfyUI knows of, as the loaders list and check them, and the built-in model's own."""

import glob
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import comfy.text_encoders
import folder_paths

from ...mochi.checkpoint import Checkpoint
from ...mochi.checkpoint.readers.folder import file_in, is_standard
from ...mochi.checkpoint.readers.shards import GGUF, SAFETENSORS, Shard, weight_files, without_later_shards
from ...mochi.config import TINY_WEIGHTS
from ...mochi.errors import CheckpointError, MochiError
from ...mochi.hub.catalog import hint
from ...mochi.text import is_t5, open_text_encoder
from ...mochi.text.tokenizer import has_tokenizer
from .quantiser import formats

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

    Hugging Face folders come before files, and have a slash at the end. The files in such a folder are entries too,
    but for the only one, if it is called `model` like all others.
    """
    folders, hidden = _hugging_face_folders(kind)
    files = (name for folder in FOLDERS[kind] for name in _files(folder) if os.path.dirname(name) not in hidden)
    return list(dict.fromkeys([TINY, *(folder + "/" for folder in folders), *without_later_shards(files)]))


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


def check_file(name: str, kind: str, in_process: bool = True) -> None:
    """Raise MochiError unless the entry's file is there and holds a whole "dit" or "t5". Reads no weights.

    in_process: whether it will be loaded in this process, where some formats can be read that ranks cannot.
    """
    _check(open_file(name, kind), kind, formats() if in_process else frozenset())


def check_vae(name: str, encoder: str | None = None) -> None:
    """Raise MochiError unless the files are there and parts of an AsymmVAE. Reads no weights."""
    for part, checkpoint in zip(("decoder", "encoder"), open_vae(name, encoder), strict=True):
        if checkpoint is not None:
            _check(checkpoint, part)


@lru_cache(maxsize=OPEN)
def _check(checkpoint: Checkpoint, part: str, hosted: frozenset[str] = frozenset()) -> None:
    """Check a part of a checkpoint. The result is remembered, since prompts are checked whenever they are queued."""
    checkpoint.check(part, hosted)


def _opened(path: Path, opens: Callable[[Path], Checkpoint]) -> Checkpoint:
    """A checkpoint. It stays open for the next node or prompt that wants it, as long as its files are unchanged."""
    states = ((file, file.stat()) for file in sorted(_files_of(path)) if file.is_file())
    return _open_unchanged(path, opens, tuple((file, state.st_mtime_ns, state.st_size) for file, state in states))


def _files_of(path: Path) -> Iterable[Path]:
    """The files that a checkpoint may be read from: those in a folder, or all of several parts by any one of them."""
    if path.is_dir():
        return path.rglob("*")
    shard = Shard.of(path.name)
    return [path] if shard is None else path.parent.glob(f"{glob.escape(shard.stem)}*")


@lru_cache(maxsize=OPEN)
def _open_unchanged(path: Path, opens: Callable[[Path], Checkpoint], state: tuple) -> Checkpoint:
    return opens(path)


def _files(folder: str) -> list[str]:
    """The weight files of one of ComfyUI's folders; it lists no GGUF itself, and in `diffusers` no files at all."""
    unlisted = (*SAFETENSORS, *GGUF) if folder == "diffusers" else GGUF
    found = (folder_paths.recursive_search(root)[0] for root in folder_paths.get_folder_paths(folder))
    more = sorted(name for names in found for name in names if name.lower().endswith(unlisted))
    return [*folder_paths.get_filename_list(folder), *more]


def _find(name: str, kind: str) -> Path:
    relative = os.path.relpath(os.path.join("/", name), "/")  # as the host does: `..` cannot leave a folder
    for root in _roots(kind):
        path = Path(root, relative)
        if name.endswith("/") and path.is_dir():
            return _model_folder(path, kind)
        if not name.endswith("/") and path.is_file():
            return path
    places = " or ".join(f"models/{folder}" for folder in FOLDERS[kind][:2])
    raise MochiError(
        f"There is no {name!r} in {places}. Put it there and refresh the page, or choose another. ({hint(name)}.)"
    )


def _roots(kind: str) -> list[str]:
    return [root for folder in FOLDERS[kind] for root in folder_paths.get_folder_paths(folder)]


def _hugging_face_folders(kind: str) -> tuple[list[str], set[str]]:
    """Folders that hold a model as Hugging Face lays it out, and those whose files need no entries of their own.

    The latter have one file, or one model in several files, under a name that says nothing, and are an entry
    themselves or a part of one.
    """
    found: dict[str, None] = {}
    whole, hidden = set(), set()
    for root in _roots(kind):
        for folder, _, files in os.walk(root, followlinks=True):
            name, path = os.path.relpath(folder, root), Path(folder)
            model = _model_folder(path, kind)
            if folder == root or (model == path and "config.json" not in files):
                continue
            if os.path.dirname(name) not in whole:
                if not _is_model(model, kind):
                    continue
                found[name] = None
                if model != path:
                    whole.add(name)
                    continue
            if [is_standard(file.name) for file in weight_files(path)] == [True]:
                hidden.add(name)
    return sorted(found), hidden


def _model_folder(folder: Path, kind: str) -> Path:
    """The folder of one kind in a folder of a whole model, or the folder itself."""
    inner = folder / INNER[kind]
    own = kind == "t5" and (folder / "config.json").is_file()
    return inner if not own and (inner / "config.json").is_file() else folder


def _is_model(folder: Path, kind: str) -> bool:
    """Whether it is clear which of a folder's files are its model."""
    try:
        return file_in(folder).is_file() and (kind != "t5" or is_t5(folder))
    except CheckpointError:
        return False
