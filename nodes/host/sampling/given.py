"""What a person is told of given frames that a model does not know what to do with."""

import logging

from comfy.model_patcher import ModelPatcher

from ....mochi.variant import PREVIEW, takes_frames
from ..progress import show_text
from ..types import Latent

log = logging.getLogger(__name__)

GIVEN = "mochi_given"
"""The key by which a LATENT says that frames were given to it, as Mochi Image to Video does."""


def tell_of_given(model: ModelPatcher, latent: Latent) -> None:
    """Log, and show in the node that runs, what becomes of given frames with a plain checkpoint."""
    if GIVEN not in latent or takes_frames(getattr(model.model, "variant", PREVIEW)):
        return
    text = (
        "This checkpoint knows one noise level for all frames: given frames are kept as Mochi Extend keeps them, and "
        "the others are made to fit. Pusa V0.5 goes on from them (python -m mochi download --variant pusa); if this is "
        "one, choose `variant` pusa in Load AsymmDiT (Mochi)."
    )
    log.warning(text)
    show_text(text)
