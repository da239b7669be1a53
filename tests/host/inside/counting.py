"""Counts how often a weight file is opened and an AsymmDiT is built, in this process and in the ranks.

All are written into one file, a line each: the process, and the path that was opened or the blocks that were built.
"""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import safetensors

LOG = "MOCHI_TEST_COUNTS"  # the environment variable that names the file; the ranks have it too

_safe_open, _open_gguf = safetensors.safe_open, gguf.GGUFReader.__init__


def counts(path: Path, blocks: int) -> dict[int, dict[str, int]]:
    """Process id -> how often `path` was opened there, and a network of so many blocks built."""
    names = {str(path): "opened", _built(blocks): "built"}
    found: dict[int, Counter[str]] = {}
    for line in Path(os.environ[LOG]).read_text(encoding="utf-8").splitlines():
        pid, _, what = line.partition(" ")
        if what in names:
            found.setdefault(int(pid), Counter())[names[what]] += 1
    return {pid: dict(counted) for pid, counted in found.items()}


def watch(network: type, patch: Any) -> None:
    """Count from now on. patch: sets an attribute, as `monkeypatch.setattr` does. network: the class AsymmDiT."""
    build = network.__init__

    def built(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        _note(_built(config.depth))
        build(self, config, *args, **kwargs)

    def opened_gguf(self: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        _note(path)
        _open_gguf(self, path, *args, **kwargs)

    patch(network, "__init__", built)
    patch(gguf.GGUFReader, "__init__", opened_gguf)
    for module in list(sys.modules.values()):
        if getattr(module, "safe_open", None) is _safe_open:
            patch(module, "safe_open", _opened)


def _built(blocks: int) -> str:
    return f"{blocks} blocks"


def _opened(path: Any, *args: Any, **kwargs: Any) -> Any:
    _note(path)
    return _safe_open(path, *args, **kwargs)


def _note(what: Any) -> None:
    with Path(os.environ[LOG]).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {what}\n")


def counting_rank(context: Any) -> Any:
    """The service of a rank that counts."""
    from mochi.dit import AsymmDiT
    from mochi.parallel.worker.service import Rank

    watch(AsymmDiT, setattr)
    return Rank(context)
