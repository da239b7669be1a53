"""Which Mochi a denoiser is: tensors of all of them have the same names and shapes, so that these do not tell.

A plain Mochi knows one noise level for all frames. One that was trained with a level for each frame (Pusa V0.5, our
tiny model) takes given frames, and so makes a video of a picture.
"""

from collections.abc import Mapping
from pathlib import Path

from .errors import MochiError

PREVIEW = "preview"
FRAMES = "frames"
PUSA = "pusa"
VARIANTS = (PREVIEW, FRAMES, PUSA)
"""preview: one noise level for all frames. frames, pusa: a level for each frame; they take given frames."""

METADATA = "variant"
"""The key in a file's metadata that says which one its network is."""

A_NAME = 200
"""Longer metadata, such as a workflow, can mention Pusa for other reasons."""

DIT_LATENTS = "dit"
RAW_LATENTS = "vae"
"""How given frames enter a network: in its own units, as sampling has them, or as the encoder gives them, without the
statistics between VAE and DiT, as Pusa was trained."""


def variant_of(path: Path, metadata: Mapping[str, str]) -> tuple[str, str]:
    """The variant of a file, and in words what says so.

    Args:
        path: of the file, in a folder that may have the variant in its name.
        metadata: of its header.
    """
    name, folder, told = path.name, path.absolute().parent.name, metadata.get(METADATA)
    if told in VARIANTS:
        return told, f"the metadata of {name} say so"
    if any("pusa" in f"{key} {value}".lower() for key, value in metadata.items() if len(value) < A_NAME):
        return PUSA, f"the metadata of {name} name Pusa"
    if "pusa" in name.lower():
        return PUSA, f"{name} has it in its name"
    if "pusa" in folder.lower():
        return PUSA, f"the folder of {folder}/{name} has it in its name"
    if told is not None:
        return PREVIEW, f"the variant in the metadata of {name}, {told[:A_NAME]!r}, is none of {', '.join(VARIANTS)}"
    return PREVIEW, f"nothing in {name} says otherwise"


def check_variant(variant: str) -> None:
    """Raise MochiError for a variant that there is not."""
    if variant not in VARIANTS:
        raise MochiError(f"variant is {variant!r}, but must be one of {', '.join(VARIANTS)}")


def takes_frames(variant: str) -> bool:
    """Whether frames can be given to a network of that variant, with noise levels of their own."""
    return variant != PREVIEW


def given_latents(variant: str) -> str:
    """How given frames enter the network: DIT_LATENTS or RAW_LATENTS."""
    return RAW_LATENTS if variant == PUSA else DIT_LATENTS
