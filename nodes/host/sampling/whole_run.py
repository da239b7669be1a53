"""A whole sampling run as one request to the ranks, where the host would add nothing to a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comfy.samplers import CFGGuider
from torch import Tensor

from ....mochi.dit.cache import Passes
from ....mochi.parallel.owner.client import join_passes
from ....mochi.parallel.protocol import Event, PassesComputed, StepDone
from ....mochi.sampling import Denoised
from ..ranks.group import follow
from ..ranks.model import RemoteNetwork
from .step_cache import STEP_CACHE, plan_of
from .step_cache import report as report_passes

# A conditioning, or options of a model, with anything else in them go step by step: the host knows what to do.
PLAIN_COND = {"cross_attn", "attention_mask", "pooled_output", "model_conds", "uuid"}
PLAIN_OPTIONS = {"transformer_options", "to_load_options"}
PLAIN_TRANSFORMER_OPTIONS = {"wrappers", "callbacks", "sample_sigmas", STEP_CACHE}


def can_run_whole(
    guider: CFGGuider, model_options: Mapping[str, Any], denoise_mask: Tensor | None = None, **_: Any
) -> bool:
    """Whether a run is nothing but forward passes of a remote network and guidance between two plain prompts."""
    transformer_options = model_options["transformer_options"]
    hooked = [*transformer_options.get("wrappers", {}).values(), *transformer_options.get("callbacks", {}).values()]
    return (
        isinstance(guider.inner_model.diffusion_model, RemoteNetwork)
        and denoise_mask is None
        and not any(hooked)
        and not guider.model_patcher.object_patches
        and model_options.keys() <= PLAIN_OPTIONS
        and transformer_options.keys() <= PLAIN_TRANSFORMER_OPTIONS
        and all(len(conds) == 1 and conds[0].keys() <= PLAIN_COND for conds in guider.conds.values())
    )


def run_whole(guider: Any, noise: Tensor, sigmas: Sequence[float], report: Callable[[Denoised], None]) -> Tensor:
    """The Euler loop on the ranks, from noise (B, 12, T, h, w) at level sigmas[0], with the scales of `guider`."""
    passes: dict[int, Passes] = {}  # that a cache computed, as each rank told
    plan = plan_of(guider.model_options["transformer_options"] | {"sample_sigmas": sigmas})

    def hear(event: Event) -> None:
        if isinstance(event.payload, PassesComputed):
            passes[event.rank] = event.payload.passes
        if isinstance(event.payload, StepDone) and event.rank == 0:
            report(event.payload.denoised)

    prompts = {
        name: conds[0]["model_conds"]["text"].process_cond(len(noise)).cond for name, conds in guider.conds.items()
    }
    scales = [1.0 if math.isclose(scale, 1.0) else scale for scale in guider.scales]  # as the host takes it
    remote = guider.inner_model.diffusion_model.remote
    run = remote.sample(noise.cpu(), sigmas, scales, prompts["positive"], prompts["negative"], plan)
    latents = follow(run, hear).to(noise.device)
    if plan is not None:
        report_passes(join_passes(passes[rank] for rank in sorted(passes)))
    return latents
