"""The model files that ComfyUI knows of, as the loaders list and check them, and the built-in model's own."""

import glob
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path, PurePath

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
from .folders import files_below, find_below
from .quantiser import formats
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

    Hugging Face folders come before files, and have a slash at the end. The files in such a folder are entries too,
    but for the only one, if it is called `model` like all others.
    """
    folders, hidden = _hugging_face_folders(kind)
    files = (name for folder in FOLDERS[kind] for name in _files(folder) if os.path.dirname(name) not in hidden)
    return list(dict.fromkeys([TINY, *(folder + "/" for folder in folders), *without_later_shards(files)]))


def open_file(name: str, kind: str) -> Checkpoint:
    """The file or folder of an entry. Raises MochiError when there is none, or it cannot be opened."""
    return _open(_version(name, kind), kind)


def open_vae(name: str, encoder: str | None = None) -> tuple[Checkpoint | None, Checkpoint | None]:
    """The files of a VAE's decoder and encoder, None where there is none. They may be one file.

    encoder: the entry of the encoder's file, None where the encoder is to be in the same file.
    """
    file = _open(_version(name, "vae"), "vae")
    if encoder is not None or name == TINY:
        encoder_file = _open(_encoder_version(encoder or TINY), "vae")
    else:
        encoder_file = file if "encoder" in file.parts else None
    return (None if _is_encoder(file) else file), encoder_file


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
    check(_check_part, _version(name, kind), kind, formats() if in_process else frozenset())


def check_vae(name: str) -> None:
    """Raise MochiError unless the entry's file is there and a decoder or encoder of an AsymmVAE, or both, whole."""
    check(_check_vae, _version(name, "vae"))


def check_decoder(name: str) -> None:
    """Like `check_vae`, for a file beside which another one has the encoder."""
    check(_check_decoder, _version(name, "vae"))


def check_encoder(name: str) -> None:
    """Raise MochiError unless the entry's file is there and has a whole encoder."""
    check(_check_encoder, _encoder_version(name))


def _check_part(version: Version, part: str, hosted: frozenset[str]) -> None:
    _open(version, part).check(part, hosted)


def _check_vae(version: Version) -> None:
    _check_decoder(version)
    if "encoder" in _open(version, "vae").parts:
        _check_encoder(version)


def _check_decoder(version: Version) -> None:
    file = _open(version, "vae")
    if not _is_encoder(file):
        file.check("decoder")


def _check_encoder(version: Version) -> None:
    _open(version, "vae").check("encoder")


def _is_encoder(file: Checkpoint) -> bool:
    """Whether it has no decoder. That is the rule; a file with neither fails as one, saying what it is."""
    return file.parts.keys() == {"encoder"}


def _encoder_version(name: str) -> Version:
    """The built-in model's encoder is beside its decoder's file."""
    beside = TINY_WEIGHTS / "encoder.safetensors"
    return version_of(beside, [beside]) if name == TINY else _version(name, "vae")


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
    shard = Shard.of(path.name)
    return [path] if shard is None else path.parent.glob(f"{glob.escape(shard.stem)}*")


def _files(folder: str) -> list[str]:
    """The weight files of one of ComfyUI's folders, of the kinds that it lists itself, and GGUF.

    In `diffusers` it lists folders alone.
    """
    kinds = SAFETENSORS if folder == "diffusers" else folder_paths.folder_names_and_paths[folder][1]
    names = {name for root in folder_paths.get_folder_paths(folder) for name in files_below(root)}
    return folder_paths.filter_files_extensions(names, {*kinds, *GGUF} if kinds else ())


def _find(name: str, kind: str) -> Path:
    path = find_below(_roots(kind), name)
    if path is None:
        places = " or ".join(f"models/{folder}" for folder in FOLDERS[kind][:2])
        raise MochiError(
            f"There is no {name!r} in {places}. Put it there and refresh the page, or choose another. ({hint(name)}.)"
        )
    return _model_folder(path, kind) if path.is_dir() else path


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
        for name in _described_folders(root, kind):
            path = Path(root, name)
            model = _model_folder(path, kind)
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


def _described_folders(root: str, kind: str) -> list[str]:
    """The folders below a root with a config.json, and those around them that may be of a whole model; outer first."""
    configs = {PurePath(file).parent for file in files_below(root) if os.path.basename(file) == "config.json"}
    whole = {folder.parent for folder in configs if folder.name == INNER[kind]}
    return [str(folder) for folder in sorted(configs | whole) if folder != PurePath()]


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
