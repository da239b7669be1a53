"""From the hub to the disk. The hub is asked before anything is written, and a file gets its name when it is whole.

The hub's own `hf_hub_download` forgets what has arrived when it fails, and over HTTP it checks sizes only. So its
`http_get`, which can resume, writes to a file of ours here, and the hash is checked here.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from huggingface_hub import get_hf_file_metadata, hf_hub_url

# HTTPError is that of the HTTP client below, whichever this version of the hub's library has; it declares no export.
from huggingface_hub.errors import (
    EntryNotFoundError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers
from huggingface_hub.utils.sha import sha_fileobj
from tqdm import tqdm

from ..errors import MochiError
from .catalog import Published, readable


@dataclass(frozen=True)
class Download:
    """One published file and where it goes; its address, its size in bytes and its SHA-256 are what the hub says."""

    file: Published
    target: Path
    url: str
    size: int
    sha256: str

    @property
    def done(self) -> bool:
        """Whether the whole file is there: nothing else has the final name."""
        return self.target.exists()

    @property
    def part(self) -> Path:
        """The file for what has arrived so far. Its name has the hash: a file that changed on the hub starts anew."""
        return self.target.with_name(f".{self.target.name}.{self.sha256[:12]}.part")

    @property
    def missing(self) -> int:
        """How many bytes are still to come."""
        if self.done:
            return 0
        arrived = self.part.stat().st_size if self.part.exists() else 0
        return self.size - arrived if arrived <= self.size else self.size


def ask(file: Published, target: Path) -> Download:
    """Ask the hub for a file's address, size and hash. Writes nothing.

    Raises MochiError if the hub cannot be reached or does not have the file, or if another file is at `target`.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    with _in_words(file, target):
        found = get_hf_file_metadata(hf_hub_url(file.repository, file.file, endpoint=endpoint))
    size, sha256 = found.size, found.etag or ""
    if size is None or re.fullmatch("[0-9a-f]{64}", sha256) is None:
        raise MochiError(f"{file.file} of {file.repository}: the hub does not say its size and SHA-256")
    # The address of this very revision: the next request must not meet another one.
    url = hf_hub_url(file.repository, file.file, revision=found.commit_hash, endpoint=endpoint)
    if target.exists() and (not target.is_file() or target.stat().st_size != size):
        raise MochiError(
            f"{target}: is not whole, or is another file of that name ({file.repository} has {size} bytes); "
            "rename or remove it"
        )
    return Download(file, target, url, size, sha256)


def check_disk(downloads: Collection[Download]) -> None:
    """Raise MochiError unless each folder can be written to and each disk has room for what is missing."""
    disks: dict[int, list[Download]] = {}
    for download in downloads:
        if not download.done:
            folder = _existing(download.target.parent)
            if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
                raise MochiError(f"{folder}: is not a folder that you can write to; choose another one")
            disks.setdefault(folder.stat().st_dev, []).append(download)
    for on_disk in disks.values():  # a folder of ComfyUI may be a link to another disk
        folder = _existing(on_disk[0].target.parent)
        needed, free = sum(download.missing for download in on_disk), shutil.disk_usage(folder).free
        if needed > free:
            raise MochiError(
                f"{folder}: {readable(needed)} are needed, but the disk has {readable(free)} free; make room there"
            )


def fetch(download: Download) -> None:
    """Fetch what is missing of a file, check it, and give it its name.

    Raises MochiError when that fails. What has arrived is kept for the next call, unless the hash is wrong.
    """
    if download.done:
        return
    with _in_words(download.file, download.target):
        download.target.parent.mkdir(parents=True, exist_ok=True)
        with download.part.open("ab" if download.missing < download.size else "wb") as part:
            # A server that compresses cannot resume.
            headers = build_hf_headers(headers={"Accept-Encoding": "identity"})
            name, size, arrived = download.target.name, download.size, part.tell()
            http_get(
                download.url, part, resume_size=arrived, headers=headers, expected_size=size, displayed_filename=name
            )
        if _sha256(download) != download.sha256:
            download.part.unlink()
            raise MochiError(
                f"{download.target.name}: what arrived is not what {download.file.repository} has (another SHA-256) "
                "and was removed; run the command again"
            )
        os.replace(download.part, download.target)


def _sha256(download: Download) -> str:
    """The hash of what has arrived. With a progress bar: it takes a minute for the largest file."""
    bar = {"total": download.size, "desc": f"checking {download.target.name}", "leave": False}
    with download.part.open("rb") as file, tqdm.wrapattr(file, "read", **bar) as watched:
        return sha_fileobj(cast(BinaryIO, watched)).hex()


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


@contextmanager
def _in_words(file: Published, target: Path) -> Iterator[None]:
    """Errors of the hub, the network and the disk as MochiError."""
    try:
        yield
    except RepositoryNotFoundError as error:
        raise MochiError(
            f"{file.repository}: the hub has no such repository, or shows it only to some (then: `hf auth login`)"
        ) from error
    except EntryNotFoundError as error:
        raise MochiError(f"{file.file}: {file.repository} has no such file; it was renamed or removed there") from error
    except (HTTPError, OSError) as error:
        if reason := getattr(error, "strerror", None):  # the system's own errors have one, those of requests do not
            raise MochiError(f"{target}: cannot be written ({reason})") from error
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise MochiError(
            f"{target.name}: could not be fetched from {file.repository} ({reason}); look at the network, then run the "
            "command again: what has arrived is kept"
        ) from error
