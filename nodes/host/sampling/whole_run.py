"""A whole sampling run as one request to the ranks, where the host would add nothing to a step."""

import math

from torch import Tensor

from ....mochi.dit.cache import Passes
from ....mochi.parallel.owner.client import join_passes
from ....mochi.parallel.protocol import Event, PassesComputed, StepDone
from ....mochi.sampling import Given
from ..ranks.group import follow
from ..ranks.model import RemoteNetwork
from ..sockets.given import GIVEN_FRAMES
from ..sockets.step_cache import STEP_CACHE, plan_of
from ..sockets.step_cache import report as report_passes
from ..sockets.text import PROMPT
from .loop import HostRun

# A conditioning, or options of a model, with anything else in them go step by step: the host knows what to do.
PLAIN_COND = {"cross_attn", "attention_mask", "pooled_output", "model_conds", "uuid", PROMPT}
PLAIN_OPTIONS = {"transformer_options", "to_load_options"}
PLAIN_TRANSFORMER_OPTIONS = {"wrappers", "callbacks", "sample_sigmas", STEP_CACHE, GIVEN_FRAMES}


def can_run_whole(run: HostRun) -> bool:
    """Whether a run is nothing but forward passes of a remote network and guidance between two plain prompts."""
    guider, model_options = run.guider, run.extra_args["model_options"]
    transformer_options = model_options["transformer_options"]
    hooks = [*transformer_options.get("wrappers", {}).values(), *transformer_options.get("callbacks", {}).values()]
    hooked = [functions for by_key in hooks for key, functions in by_key.items() if key != GIVEN_FRAMES]
    return (
        isinstance(guider.inner_model.diffusion_model, RemoteNetwork)
        and run.extra_args["denoise_mask"] is None
        and not any(hooked)
        and not guider.model_patcher.object_patches
        and model_options.keys() <= PLAIN_OPTIONS
        and transformer_options.keys() <= PLAIN_TRANSFORMER_OPTIONS
        and all(len(conds) == 1 and conds[0].keys() <= PLAIN_COND for conds in guider.conds.values())
    )


def run_whole(run: HostRun) -> Tensor:
    """The Euler loop on the ranks, for a run of which `can_run_whole` holds."""
    passes: dict[int, Passes] = {}  # those that a step cache computed, by rank
    options = run.extra_args["model_options"]["transformer_options"]
    plan, levels = plan_of(options), options.get(GIVEN_FRAMES)
    given = None if levels is None else Given(None, levels)  # the host's start has them in it

    def hear(event: Event) -> None:
        if isinstance(event.payload, PassesComputed):
            passes[event.rank] = event.payload.passes
        if isinstance(event.payload, StepDone) and event.rank == 0:
            run.report(event.payload.denoised)

    prompts = {
        name: conds[0]["model_conds"]["text"].process_cond(len(run.noise)).cond
        for name, conds in run.guider.conds.items()
    }
    scales = [1.0 if math.isclose(scale, 1.0) else scale for scale in run.guider.scales]  # as the host takes it
    remote = run.guider.inner_model.diffusion_model.remote
    texts = prompts["positive"], prompts["negative"]
    work = remote.sample(run.noise.cpu(), run.sigmas, scales, *texts, plan, given, run.guider.skip)
    latents = follow(work, hear).to(run.noise.device)
    if plan is not None:
        report_passes(join_passes(passes[rank] for rank in sorted(passes)))
    return latents
