"""What the hub's own cache has on this machine. Nothing is fetched."""

from pathlib import Path


def cache_folder() -> Path:
    """Where the hub's library keeps what it has fetched; HF_HUB_CACHE and HF_HOME say it."""
    from huggingface_hub import constants  # takes a while, and so do those below

    return Path(constants.HF_HUB_CACHE)


def cached(repository: str) -> Path | None:
    """The folder of a repository's files that are in the cache, which need not be all; None without any."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None
