"""Given frames in a LATENT: which they are, and what becomes of them with a model that knows nothing of any."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....mochi.errors import MochiError
from ....mochi.variant import PREVIEW, takes_frames
from ..progress import show_text
from ..sockets.given import ROUNDING
from ..sockets.latents import noise_mask
from ..types import Latent

log = logging.getLogger(__name__)

GIVEN = "mochi_given"
"""The key of a LATENT's GivenFrames, which Mochi Image to Video writes."""


@dataclass(frozen=True)
class GivenFrames:
    """What a LATENT says of the frames that it was given.

    Attributes:
        frames: by the number of the latent frame, the frame of the video that a person gave.
        samples: the LATENT's own, by which it is known that no sampler has made others of them since.
    """

    frames: Mapping[int, int]
    samples: Tensor


def to_be_made(latent: Latent) -> bool:
    """Whether a LATENT has given frames whose video is still to be made, so that its noise mask is of them.

    Samplers of ComfyUI hand on what they do not know, the noise mask among it.
    """
    given: GivenFrames | None = latent.get(GIVEN)
    if given is None:
        return False
    samples = latent["samples"]
    if given.samples is samples:
        return True
    free = [place for place in range(samples.shape[2]) if place not in given.frames]
    return not samples[:, :, free].any()


def as_taken(model: ModelPatcher, latent: Latent) -> Latent:
    """A LATENT with given frames as a model takes it. A plain checkpoint keeps them all, whatever their strength.

    That is logged, and shown in the node that runs. Raises MochiError where nothing is left to make.
    """
    mask = noise_mask(latent)
    if GIVEN not in latent or mask is None:
        return latent
    takes = takes_frames(getattr(model.model, "variant", PREVIEW))
    if not takes:
        mask = (mask > 1 - ROUNDING).to(mask)
    if not mask.any():
        raise MochiError(
            "All frames of the video are given, and stay as they are: nothing is left to make. Give fewer of them"
            f"{', or choose a strength below 1' if takes else ''}."
        )
    if takes:
        return latent
    text = (
        "This checkpoint knows one noise level for all frames: given frames are kept as Mochi Extend keeps them, and "
        "the others are made to fit. Pusa V0.5 goes on from them (python -m mochi download --variant pusa); if this is "
        "one, choose `variant` pusa in Load AsymmDiT (Mochi)."
    )
    log.warning(text)
    show_text(text)
    return {**latent, "noise_mask": mask}
