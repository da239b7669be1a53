"""A folder of links, in which every file has its name and its place again, wherever this machine keeps it.

Names and places mean something: an index names its shards, a tokenizer lies beside its T5, a folder can have the
variant of a Mochi in its name.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ...checkpoint.readers.shards import GGUF, SAFETENSORS
from ...errors import MochiError
from ...lora.scale import FASTVIDEO, PEFT
from ...text.tokenizer import FAST, SENTENCEPIECE
from .locate import Located

ANYWHERE = (FAST, SENTENCEPIECE, PEFT, FASTVIDEO)
"""Names of files that count beside any weights."""

STATISTICS = "latents.json"
"""The file that counts beside the weights of a model's folder."""

FOLDERS = ("t5", "text_encoder", "tokenizer", "transformer", "vae")
"""Folders in which parts of a model are looked for."""


@dataclass(frozen=True)
class Tree:
    """Where this machine has the paths of another one.

    Attributes:
        root: below it they are all there; empty where they are at their own places.
    """

    root: str

    def local(self, path: str) -> Path:
        """The path here of a wanted file, or of a folder with wanted files, as `absolute` gives it there."""
        there = Path(path)
        if not there.is_absolute() or ".." in there.parts:
            raise ValueError(f"{path} is not absolute")
        return Path(self.root, *there.parts[1:]) if self.root else there


def link_tree(located: Located, folder: str | Path) -> Tree:
    """Links to the found files, in a new folder below `folder`; none where readers find just these files already.

    The same files get the same folder, however many processes ask. Raises MochiError where it cannot be written.
    """
    if located.missing:
        raise ValueError(f"{', '.join(located.missing)}: missing")
    if _in_place(located):
        return Tree("")
    links = {Path(wanted).parts[1:]: os.path.abspath(found) for wanted, found in located.found.items()}
    name = hashlib.sha256(repr(sorted(links.items())).encode("utf-8", "backslashreplace")).hexdigest()[:16]
    root = Path(folder).absolute() / name
    if not root.is_dir():
        part = root.with_name(f".{uuid.uuid4().hex[:12]}.part")
        try:
            for parts, found in links.items():
                link = part.joinpath(*parts)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(found)
            os.rename(part, root)
        except OSError as error:
            if not root.is_dir():  # else another process has made it meanwhile
                raise MochiError(f"{folder}: links to weights cannot be made there: {error.strerror}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return Tree(str(root))


def _in_place(located: Located) -> bool:
    """Whether all files are at their own paths, and nothing lies beside them that a reader would take too."""
    if any(wanted != found for wanted, found in located.found.items()):
        return False
    chosen = {str(Path(file.path).parent): file.chosen for file in sorted(located.files, key=lambda file: file.chosen)}
    return not any(_has_others(folder, among, located.found) for folder, among in chosen.items())


def _has_others(folder: str, chosen: bool, wanted: Collection[str]) -> bool:
    """Whether a folder has other files that count. Of one that cannot be listed nobody knows."""
    try:
        others = [entry for entry in os.scandir(folder) if entry.path not in wanted]
    except OSError:
        return True
    for entry in others:
        name, inside = entry.name, entry.path + os.sep
        if entry.is_dir():
            counts = name in (FOLDERS if chosen else ("tokenizer",))
            counts = counts and not any(path.startswith(inside) for path in wanted)
        else:
            weights = name.lower().endswith((*SAFETENSORS, *GGUF)) or ".safetensors.index" in name
            counts = name in ANYWHERE or (chosen and (name == STATISTICS or weights))
        if counts:
            return True
    return False
