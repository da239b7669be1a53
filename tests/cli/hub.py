"""A cache of the hub, laid out as its library lays it out."""

import hashlib
from pathlib import Path


def put(cache: Path, repository: str, files: dict[str, Path]) -> Path:
    """Put files into a cache as a repository's, by their names there. Returns the folder in which they have these."""
    commit = hashlib.sha1(repository.encode()).hexdigest()
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "blobs").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    snapshot = place / "snapshots" / commit
    for name, file in files.items():
        blob = place / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    return snapshot


def folder(files: Path) -> dict[str, Path]:
    """The files of a folder by their names."""
    return {file.name: file for file in files.iterdir()}
