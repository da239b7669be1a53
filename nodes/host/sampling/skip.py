"""Skip-layer guidance inside ComfyUI's sampling: a third forward pass, whose blocks a model patch leaves out."""

from typing import Any

import comfy.model_patcher
import comfy.samplers
from torch import Tensor

from ....mochi.sampling import SkipLayers


def with_skip(model_options: dict[str, Any], skip: SkipLayers) -> dict[str, Any]:
    """Options of a model whose predictions are guided away from those without some blocks."""

    def guide(args: dict[str, Any]) -> Tensor:
        options, z, sigma = args["model_options"].copy(), args["input"], args["sigma"][0]
        for layer in skip.layers:
            options = comfy.model_patcher.set_model_options_patch_replace(options, _go_by, "dit", "double_block", layer)
        (skipped,) = comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], z, args["sigma"], options)
        flow, cond, skipped = ((z0 - z) / sigma for z0 in (args["denoised"], args["cond_denoised"], skipped))
        return z + sigma * skip.guide(flow, cond, skipped)

    return comfy.model_patcher.set_model_options_post_cfg_function(model_options.copy(), guide)


def _go_by(args: dict[str, Any], _: Any) -> dict[str, Any]:
    """A model patch in place of a block: both streams go by it unchanged."""
    return args
