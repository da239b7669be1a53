"""Given frames, each with a noise level of its own, inside ComfyUI's sampling.

A LATENT says by its noise mask, as ComfyUI's other image-to-video nodes have it, how much noise each frame gets: 1 for
a free frame, 0 for one that stays, and what is between lets it move. Any sampler of ComfyUI then gives each frame its
own steps: what it is told of a frame is that it moves so much slower. One that adds noise of its own can do so only
beside frames that stay.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ....mochi.errors import MochiError
from ....mochi.variant import RAW_LATENTS

GIVEN_FRAMES = "mochi_given_frames"
"""The key of our wrapper, and the transformer option with the noise multiplier of each latent frame."""

ROUNDING = 1e-4
FRAMES_AXIS = 2

KEEP_NOISE = {"res_multistep", "res_multistep_cfg_pp"}
"""Samplers of the host that could add noise, by an argument that these do not use."""

ADD_NOISE = {"lcm_upscale"}
"""Those that add noise without such an argument."""


def give_frames_levels(patcher: ModelPatcher) -> None:
    """Have the samplers of a MODEL give noise levels to the frames of a LATENT."""
    patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, GIVEN_FRAMES, _with_levels)


def levels_in(mask: Tensor) -> tuple[tuple[float, ...], Tensor]:
    """A noise mask (B, C, T, h, w) -> a multiplier for each frame, and what of the mask these leave.

    The rest is the mask in parts of the multiplier: 1 everywhere in a frame that is as noisy in all places, and 0 in
    one that stays.
    """
    most = mask.amax((0, 1, 3, 4))
    for sure in (0.0, 1.0):  # a mask that the host has resized has rounding errors
        most[(most - sure).abs() < ROUNDING] = sure
    rest = torch.where(most[:, None, None] > 0, mask / most[:, None, None].clamp(min=1e-6), 0.0)
    return tuple(most.tolist()), rest


def levels_of(frames: int, options: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The multipliers for a pass of so many frames, or of those that the host has picked; None where all are free."""
    levels: Sequence[float] | None = options.get(GIVEN_FRAMES)
    if levels is None:
        return None
    window = options.get("context_window")
    if window is not None and window.dim == FRAMES_AXIS:
        anchor = getattr(window, "causal_anchor_index", None)  # a frame that newer hosts put before those of the window
        levels = [levels[i] for i in ([] if anchor is None else [anchor]) + list(window.index_list)]
    if len(levels) != frames:
        raise MochiError(
            f"A node hands the model {frames} of {len(levels)} latent frames, and it is unknown which of them are "
            "given: take the node out, or the given frames."
        )
    return tuple(levels)


def _with_levels(
    sample: Any,
    guider: Any,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Any,
    noise: Tensor,
    latents: Tensor,
    mask: Tensor | None = None,
    disable: bool = False,
) -> Tensor:
    """Around the host's `KSAMPLER.sample`: a run whose frames have levels as the mask says."""
    others = sample.wrappers[sample.idx + 1 :]
    if others:  # they go first: they take the noise for that of free frames, and may shuffle it
        others = [other for other in others if other is not _with_levels]
        around = WrapperExecutor.new_class_executor(sample.original, sample.class_obj, [*others, _with_levels])
        return around.execute(guider, sigmas, extra_args, callback, noise, latents, mask, disable)
    if mask is None:
        return sample(guider, sigmas, extra_args, callback, noise, latents, mask, disable)
    levels, rest = levels_in(mask)
    if all(level == 1 for level in levels):
        return sample(guider, sigmas, extra_args, callback, noise, latents, mask, disable)
    each = mask.new_tensor(levels)[:, None, None]
    free, kept = each == 1, each == 0
    area = bool((rest < 1 - ROUNDING).logical_and(~kept).any())  # that stays in frames that are made
    sampler = sample.class_obj
    adding = _noise_adder(sampler)
    renewing = "ddim" if area and getattr(sampler, "inpaint_options", {}).get("random") else adding
    if renewing is not None and any(0 < level < 1 for level in levels):
        raise MochiError(
            f"sampler_name is {renewing}, which adds noise at each step: it does not know that frames given at a "
            "strength between 0 and 1 have less of it. Choose strength 1, a sampler that adds none (euler, heun, "
            "dpmpp_2m), or Mochi Sampler."
        )

    model = guider.inner_model
    given = latents
    if model.given_latents == RAW_LATENTS:  # as this checkpoint was trained
        given = model.process_latent_out(latents)
    # The host's start, sigma * noise + (1 - sigma) * latents, is then each frame's own.
    if noise.any():
        given = torch.where(free, latents, given)
        noise = torch.lerp(given, noise, each)
    else:  # the second part of a run, whose latents have their noise, but for the frames that stay
        given = torch.where(kept, given, latents)
        noise = torch.where(kept, given, noise)
    options = extra_args["model_options"]["transformer_options"]
    options = {**options, GIVEN_FRAMES: levels}
    extra_args = {**extra_args, "model_options": {**extra_args["model_options"], "transformer_options": options}}
    if adding is None:  # of frames that stay it makes nothing else; from others the host's mask keeps their noise away
        rest = torch.where(kept, 1.0, rest) if area else None
    samples = sample(guider, sigmas, extra_args, callback, noise, given, rest, disable)
    return torch.where(kept, latents, samples)


def _noise_adder(sampler: Any) -> str | None:
    """The name of a sampler that adds noise as it goes; None for any other."""
    function: Callable | None = getattr(sampler, "sampler_function", None)
    if function is None:
        return None
    name = getattr(function, "__name__", "one").removeprefix("sample_")
    could = "noise_sampler" in inspect.signature(function).parameters and name not in KEEP_NOISE
    how_much = [sampler.extra_options[option] for option in ("eta", "s_noise") if option in sampler.extra_options]
    return name if (could and all(how_much)) or name in ADD_NOISE else None
