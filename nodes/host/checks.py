"""Checks of what comes in, before anything heavy starts. They raise MochiError, which says what to change."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_execution.validation import validate_node_input
from torch import Tensor

from ...mochi.errors import MochiError
from ...mochi.geometry import PATCH, SPACE, nearest_length
from .complaints import note

CHANNELS = 12
# Marks an input that is not there. A linked one is None: it has no value yet when a prompt is checked.
ABSENT = object()


def complaint(check: Callable[..., object], *arguments: Any, widget: str = "") -> str | None:
    """The message of the MochiError that a check raises with these arguments, for a node's `validate_inputs`.

    Nothing is checked where an argument is None: it comes from another node, which has not run yet.

    widget: what the message is about, where it does not begin with the widget's name.
    """
    if any(argument is None for argument in arguments):
        return None
    try:
        check(*arguments)
    except MochiError as error:
        return note(str(error), widget)
    return None


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """A widget's value must be in its list, which the host does not check."""
    if value not in choices:
        raise MochiError(f"{name} is {value!r}, but must be one of {', '.join(choices)}.")


def check_links(node: Any, received: Mapping[str, str]) -> None:
    """Links must bring what a node takes. The host leaves that to a node that validates their types itself.

    received: the type that each linked input gets.
    """
    inputs = node.INPUT_TYPES()
    taken = {**inputs.get("required", {}), **inputs.get("optional", {})}
    for name, kind in received.items():
        if not validate_node_input(kind, taken[name][0]):
            raise MochiError(f"{name} takes {taken[name][0]}, but gets {kind}.")


def check_at_most(name: str, value: int, most: int) -> None:
    """A widget's value must not be too large. The host leaves that to a node that validates the widget itself."""
    if value > most:
        raise MochiError(f"{name} is {value}, but can be {most} at most.")


def check_range(name: str, value: float, least: float, most: float) -> None:
    """A widget's value must lie within its range; see `check_at_most`."""
    if not least <= value <= most:  # NaN is not within it either
        raise MochiError(f"{name} is {value}, but must be between {least:g} and {most:g}.")


def check_latent(shape: Sequence[int]) -> None:
    """The shape of LATENT samples must be that of a Mochi video: (B, 12, T, h, w)."""
    if len(shape) != 5 or shape[1] != CHANNELS:
        channels = shape[1] if len(shape) > 1 else len(shape)
        raise MochiError(
            f"The latent has {channels} channels and the shape {tuple(shape)}, but Mochi's are "
            f"(batch, {CHANNELS}, frames, rows, columns): it comes from another model. "
            "Use Empty Mochi Latent Video or Mochi VAE Encode."
        )


def check_patches(samples: Tensor) -> None:
    """Rows and columns of the latents must be even, for videos whose sides are multiples of 16."""
    rows, columns = samples.shape[-2:]
    if rows % PATCH or columns % PATCH:
        width, height = columns * SPACE, rows * SPACE
        raise MochiError(
            f"The latent is of a video of {width} x {height} pixels, but width and height must be multiples of 16: "
            f"the nearest are {nearest_length(width)} x {nearest_length(height)}."
        )


def check_sigmas(sigmas: Sequence[float]) -> None:
    """A noise schedule must fall from step to step, and may reach 0 only at its end."""
    if any(a <= b or a <= 0 for a, b in pairwise(sigmas)):
        raise MochiError(
            f"The sigmas must fall from step to step and reach 0 at the end at most, but are {list(sigmas)[:8]} ...: "
            "use Mochi Sigmas, or a scheduler of ComfyUI."
        )


def check_text(features: Tensor | None, width: int) -> Tensor:
    """A conditioning's features (B, L, D), which must have the width D that the model reads."""
    found = 0 if features is None else features.shape[-1]
    if features is None or found != width:
        raise MochiError(
            f"The conditioning is {found} wide, but this model reads text features of width {width}: it comes from "
            "another text encoder. Use the T5 that belongs to the model, with Load T5 (Mochi)."
        )
    return features


def check_run(model: ModelPatcher, sigmas: Sequence[float], samples: Tensor, *conditionings: list) -> None:
    """Noise levels, latents and prompts of a run must be valid, and belong to the model."""
    check_sigmas(sigmas)
    check_latent(samples.shape)
    check_patches(samples)
    check_conditioning(model, *conditionings)


def check_conditioning(model: ModelPatcher, *conditionings: list) -> None:
    """Every part of every CONDITIONING must come from the model's text encoder."""
    width = text_width(model)
    for features, _ in (part for conditioning in conditionings for part in conditioning):
        check_text(features, width)


def depth(model: ModelPatcher) -> int:
    """How many blocks the network of a MODEL has."""
    network: Any = model.get_model_object("diffusion_model")
    return len(network.blocks)


def text_width(model: ModelPatcher) -> int:
    """The width of the text features that a MODEL reads, ours or ComfyUI's own Mochi.

    Raises MochiError for any other model.
    """
    projection = getattr(model.get_model_object("diffusion_model"), "t5_yproj", None)
    if projection is None:
        kind = type(model.model).__name__
        raise MochiError(f"The model is not a Mochi ({kind}). Use Load AsymmDiT (Mochi), or Load Diffusion Model.")
    return projection.in_features
