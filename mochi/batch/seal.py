"""What the credentials of a video say of how it was made."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..provenance import Signer
from ..settings import GenerateSettings
from .record import Recipe


def seal_for(signer: Signer | None, settings: GenerateSettings, recipe: Recipe) -> Callable[[Path], None] | None:
    """What signs a video of these settings; None where nobody signs. See VideoWriter."""
    return None if signer is None else signer.seal(told(settings, recipe))


def told(settings: GenerateSettings, recipe: Recipe) -> dict[str, Any]:
    """The settings as they go out with the video. Files are named without their folders, which concern nobody else."""
    images = [replace(image, file=_name(image.file)) for image in settings.images]
    return {
        "model": _name(recipe.model),
        "variant": recipe.variant,
        "dtype": recipe.asked_dtype,
        "loras": [_name(lora) for lora in recipe.loras],
        **replace(settings, images=tuple(images)).as_dict(),
    }


def _name(path: str) -> str:
    return os.path.basename(os.path.abspath(path))
