"""Content credentials of what nodes save, where MOCHI_SIGN names a certificate."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from comfy.cli_args import args
from comfy_api.latest import io

from ...mochi.provenance import Signer
from .files import TINY

WEIGHTS = (".safetensors", ".sft", ".gguf")


def check_signing(format: str) -> None:
    """Raise MochiError, before anything runs, where videos are to be signed and cannot be."""
    signer = Signer.chosen()
    if signer is not None:
        signer.check(format)


def seal_for(hidden: io.HiddenHolder, format: str, **settings: Any) -> Callable[[Path], None] | None:
    """What signs the video of a graph; None where nobody signs. See VideoWriter.

    It names the model's files. The graph itself is in the file's metadata, which the signature covers.
    Raises MochiError like `check_signing`, whose format may not have been known.
    """
    signer = Signer.chosen()
    if signer is None:
        return None
    signer.check(format)
    if args.disable_metadata:
        return signer.seal(settings)
    models = sorted(set(_weights(hidden.prompt or {})))
    return signer.seal({"model": models, **settings, "workflow": "in the metadata of this file"})


def _weights(prompt: Mapping[str, Any]) -> Iterator[str]:
    """The names of weight files that widgets of a prompt hold, without their folders."""
    for node in prompt.values():
        for value in node.get("inputs", {}).values():
            if isinstance(value, str) and (value.lower().endswith(WEIGHTS) or value == TINY):
                yield value.replace("\\", "/").rpartition("/")[2]
