"""Given frames, each with a noise level of its own, inside ComfyUI's sampling.

A LATENT says by its noise mask, as ComfyUI's other image-to-video nodes have it, how much noise each frame gets: 1 for
a free frame, 0 for one that stays, and what is between lets it move. Any sampler of ComfyUI that adds no noise of its
own then gives each frame its own steps: what it is told of a frame is that it moves so much slower.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....mochi.errors import MochiError
from ....mochi.variant import RAW_LATENTS

GIVEN_FRAMES = "mochi_given_frames"
"""The key of our wrapper, and the transformer option with the noise multiplier of each latent frame."""


def give_frames_levels(patcher: ModelPatcher) -> None:
    """Have the samplers of a MODEL give noise levels to the frames of a LATENT."""
    patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, GIVEN_FRAMES, _with_levels)


def levels_in(mask: Tensor) -> tuple[tuple[float, ...], Tensor]:
    """A noise mask (B, C, T, h, w) -> a multiplier for each frame, and what of the mask these leave.

    The rest is the mask in parts of the multiplier: 1 everywhere in a frame that is as noisy in all places, and 0 in
    one that stays.
    """
    most = mask.amax((0, 1, 3, 4))
    rest = torch.where(most[:, None, None] > 0, mask / most[:, None, None].clamp(min=1e-6), 0.0)
    return tuple(most.tolist()), rest


def levels_of(frames: int, options: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The multipliers for a pass of so many frames, or of those that the host has picked; None where all are free."""
    levels: Sequence[float] | None = options.get(GIVEN_FRAMES)
    if levels is None:
        return None
    window = options.get("context_window")
    if window is not None:
        levels = [levels[i] for i in window.index_list]
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
    if mask is None or mask.amax((0, 1, 3, 4)).min() == 1:
        return sample(guider, sigmas, extra_args, callback, noise, latents, mask, disable)
    levels, rest = levels_in(mask)
    free, kept = (mask.new_tensor([test(level) for level in levels])[:, None, None] for test in (_is_free, _is_kept))
    _check_sampler(sample.class_obj, levels)

    model = guider.inner_model
    given = latents
    if model.given_latents == RAW_LATENTS:  # as this checkpoint was trained
        given = torch.where(free > 0, latents, model.process_latent_out(latents))
    each = mask.new_tensor(levels)[:, None, None]
    if noise.any():  # else it is the second part of a run, whose latents have their noise
        # The host's start, sigma * noise + (1 - sigma) * latents, is then each frame's own.
        noise = torch.lerp(given, noise, each)
    options = extra_args["model_options"]["transformer_options"]
    options = {**options, GIVEN_FRAMES: levels}
    extra_args = {**extra_args, "model_options": {**extra_args["model_options"], "transformer_options": options}}
    still = bool((rest >= 1 - 1e-4).logical_or(kept > 0).all())
    samples = sample(guider, sigmas, extra_args, callback, noise, given, None if still else rest, disable)
    return torch.where(kept > 0, latents, samples)


def _is_free(level: float) -> bool:
    return level == 1


def _is_kept(level: float) -> bool:
    return level == 0


def _check_sampler(sampler: Any, levels: Sequence[float]) -> None:
    """Raise MochiError for a sampler that adds noise as it goes: it would add a free frame's noise to given ones."""
    function: Callable | None = getattr(sampler, "sampler_function", None)
    if function is None or "noise_sampler" not in inspect.signature(function).parameters:
        return
    name = getattr(function, "__name__", "this sampler").removeprefix("sample_")
    raise MochiError(
        f"sampler_name is {name}, which adds noise at each step: it does not know that given frames have less of it. "
        "Choose one that adds none (euler, heun, dpmpp_2m), or Mochi Sampler."
    )
