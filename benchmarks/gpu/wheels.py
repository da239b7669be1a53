"""Libraries from a folder, for a machine without a network: wheels, or packages that were installed there."""

import os
import sys
import zipfile
from pathlib import Path


def use(folder: Path, unpacked: Path) -> list[str]:
    """Put what is in the folder on the path, also of the processes that multiprocessing starts; wheels are unpacked.

    A ComfyUI in a folder `comfyui` is used unless COMFYUI_PATH names another. Returns what was added to the path.
    """
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
    if (folder / "comfyui" / "main.py").is_file():
        os.environ.setdefault("COMFYUI_PATH", str((folder / "comfyui").resolve()))
    # Behind what is installed here: a wheel of numpy is not to take the place of the one that torch was built for.
    added = [str(path.resolve()) for path in (unpacked, folder)]
    sys.path += added
    return added
