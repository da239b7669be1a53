"""TeaCache on a MODEL: how a clone is marked, and what a forward pass makes of the mark."""

import logging
from collections.abc import Mapping
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....mochi.dit import AsymmDiT
from ....mochi.dit.cache import CachePlan, Key, Passes, in_words
from ....mochi.errors import MochiError
from ....mochi.kernels.graph_break import outside
from ..checks import text_width
from ..progress import show_text

log = logging.getLogger(__name__)

STEP_CACHE = "mochi_step_cache"
"""The transformer option: (threshold, start, end), see CachePlan."""


def with_cache(model: ModelPatcher, threshold: float, start: float, end: float) -> ModelPatcher:
    """A clone of a MODEL whose runs have a step cache; in place of an earlier one, and none at threshold 0.

    Raises MochiError for a network that is not ours.
    """
    text_width(model)
    if not isinstance(model.get_model_object("diffusion_model"), AsymmDiT):
        raise MochiError(
            "This is ComfyUI's own Mochi, which TeaCache (Mochi) cannot work on. Load the file with Load AsymmDiT "
            "(Mochi), or use ComfyUI's EasyCache."
        )
    clone = model.clone()
    clone.model_options["transformer_options"][STEP_CACHE] = (threshold, start, end)
    return clone


@outside  # reads numbers from tensors
def plan_of(options: Mapping[str, Any]) -> CachePlan | None:
    """The cache that a run is to have. None, too, for a pass that is not part of a run."""
    threshold, start, end = options.get(STEP_CACHE, (0.0, 0.0, 1.0))
    sigmas = options.get("sample_sigmas")
    if not threshold or sigmas is None:
        return None
    return CachePlan(threshold, tuple(map(float, sigmas)), start, end)


def keys_of(x: Tensor, options: Mapping[str, Any]) -> list[Key]:
    """The keys of the samples of a pass, x (B, 12, T, H, W).

    A key has the conditioning, which has an id of its own in each run, the place in its batch, the size, and the frames
    where the host makes a long video window by window."""
    conditionings = [str(uuid) for uuid in options["uuids"]]
    window = options.get("context_window")
    frames = None if window is None else tuple(window.index_list)
    samples = range(len(x) // len(conditionings))
    return [(uuid, sample, tuple(x.shape[2:]), frames) for uuid in conditionings for sample in samples]


def report(passes: Passes) -> None:
    """Tell in the log, and in the node that runs, which steps were computed."""
    text = in_words(passes)
    log.info(text)
    show_text(text)
