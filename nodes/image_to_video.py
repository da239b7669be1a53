"""Given frames: a picture that a video starts from, ends in, or passes through, and clips that it goes on from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..mochi import geometry
from ..mochi.config import PREVIEW, TINY
from ..mochi.errors import MochiError
from ..mochi.given import (
    fitted,
    frame_number,
    frames_of_latent,
    latent_places,
    nearest_free,
    noise_multiplier,
)
from . import widgets
from .host.checks import ABSENT, check_at_most, check_latent, check_patches, complaint
from .host.sampling.given import GIVEN, GivenFrames
from .host.sampling.sampler import empty_latent
from .host.sockets.latents import noise_mask
from .host.sockets.vae import check_encodes
from .host.types import Latent, Vae
from .widgets import MAX_FRAMES, MAX_SIZE


class ImageToVideo(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelImageToVideo",
            "Mochi Image to Video",
            "Gives a picture, or a clip, to frames of a video: Mochi Sampler makes the others to go with it. One after "
            "the other give start and end, or any frames between. For a model that was trained so (Pusa V0.5, or the "
            "tiny one).",
            found_as=("i2v", "start frame", "first frame", "end frame", "keyframe", "pusa", "animate image"),
            inputs=[
                io.Vae.Input("vae", tooltip="From Load AsymmVAE (Mochi), with an encoder."),
                io.Image.Input(
                    "image",
                    tooltip="A picture, or a clip of 7, 13, 19, ... frames. It is cropped in the middle to the ratio "
                    "of the video, and resized; the node shows what of it is used.",
                ),
                widgets.side("width", PREVIEW.defaults.width, TINY.defaults.width),
                widgets.side("height", PREVIEW.defaults.height, TINY.defaults.height),
                widgets.frames(
                    1,
                    f"Of the whole video, 6k + 1; the tiny model makes {TINY.defaults.frames}. Ignored when a latent "
                    "is given.",
                ),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=-MAX_FRAMES,
                    max=MAX_FRAMES,
                    tooltip="Which frame of the video it is: 0 the first, -1 the last. Of a clip: where its first "
                    "frame is or, counted from the end, its last one.",
                ),
                widgets.fraction(
                    "strength",
                    1.0,
                    "1: it stays as it is. Less lets it move: for Pusa 0.6 to 1 for a first frame; 0.7 and 0.3 for "
                    "first and last.",
                    step=0.05,
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="A video that has been given other frames already, by another of these nodes.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="For Mochi Sampler or KSampler, with denoise 1.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        width: int | None,
        height: int | None,
        frames: int | None,
        frame: int | None,
        strength: float | None,
        latent: object = ABSENT,
    ) -> bool | str:
        found = complaint(check_at_most, "frames", frames, MAX_FRAMES)
        found = found or complaint(check_at_most, "width", width, MAX_SIZE)
        found = found or complaint(check_at_most, "height", height, MAX_SIZE)
        found = found or complaint(noise_multiplier, strength)
        if latent is ABSENT:
            found = found or complaint(geometry.check_size, width, height) or complaint(geometry.check_frames, frames)
            found = found or complaint(frame_number, frame, frames)
        return found or True

    @classmethod
    def execute(
        cls,
        vae: Vae,
        image: Tensor,
        width: int,
        height: int,
        frames: int,
        frame: int,
        strength: float,
        latent: Latent | None = None,
    ) -> io.NodeOutput:
        if latent is None:
            latent = empty_latent(width, height, frames, 1)
        latent, (shown,) = give(latent, vae, Given(image, frame, strength))
        return io.NodeOutput(latent, ui=ui.PreviewImage(shown[:1], cls=cls))


class Transition(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelTransition",
            "Mochi Transition",
            "Joins two clips: a video that begins with the last frames of the first one, and ends with the first "
            "frames of the second. For a model that was trained so (Pusa V0.5, or the tiny one).",
            found_as=("morph", "join clips", "loop", "between clips", "keyframes"),
            inputs=[
                io.Vae.Input("vae", tooltip="From Load AsymmVAE (Mochi), with an encoder."),
                io.Image.Input(
                    "first",
                    tooltip="The clip, or the picture, that the video begins with. Joined to itself it becomes a loop.",
                ),
                io.Image.Input("second", tooltip="The clip, or the picture, that it ends with."),
                widgets.side("width", PREVIEW.defaults.width, TINY.defaults.width),
                widgets.side("height", PREVIEW.defaults.height, TINY.defaults.height),
                widgets.frames(
                    1,
                    "Of the transition, with what it has of both clips: 6k + 1; the tiny model makes "
                    f"{TINY.defaults.frames}.",
                ),
                widgets.count("overlap", 7, (1, MAX_FRAMES), "Frames of each clip that it has, 6k + 1.", step=6),
                widgets.fraction("first_strength", 0.9, "1: the frames of the first clip stay as they are.", step=0.05),
                widgets.fraction(
                    "second_strength", 0.7, "1: the frames of the second clip stay as they are.", step=0.05
                ),
            ],
            outputs=[io.Latent.Output(tooltip="For Mochi Sampler or KSampler, with denoise 1.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        width: int | None,
        height: int | None,
        frames: int | None,
        overlap: int | None,
        first_strength: float | None,
        second_strength: float | None,
    ) -> bool | str:
        found = complaint(check_at_most, "frames", frames, MAX_FRAMES)
        found = found or complaint(check_at_most, "width", width, MAX_SIZE)
        found = found or complaint(check_at_most, "height", height, MAX_SIZE)
        found = found or complaint(geometry.check_size, width, height) or complaint(geometry.check_frames, frames)
        found = found or complaint(_check_overlap, overlap, frames)
        found = found or complaint(noise_multiplier, first_strength, "first_strength")
        return found or complaint(noise_multiplier, second_strength, "second_strength") or True

    @classmethod
    def execute(
        cls,
        vae: Vae,
        first: Tensor,
        second: Tensor,
        width: int,
        height: int,
        frames: int,
        overlap: int,
        first_strength: float,
        second_strength: float,
    ) -> io.NodeOutput:
        _check_overlap(overlap, frames)
        latent = empty_latent(width, height, frames, 1)
        ending, beginning = first[-min(overlap, _whole(len(first))) :], second[: min(overlap, _whole(len(second)))]
        latent, (begin, end) = give(
            latent,
            vae,
            Given(ending, 0, first_strength, "first", "first_strength"),
            Given(beginning, -1, second_strength, "second", "second_strength"),
        )
        return io.NodeOutput(latent, ui=ui.PreviewImage(torch.cat((begin[-1:], end[:1])), cls=cls))


@dataclass(frozen=True)
class Given:
    """A picture or a clip (F, H, W, 3) for frames of a video. Names are those of its widgets, for messages."""

    image: Tensor
    frame: int
    strength: float
    name: str = "image"
    strength_name: str = "strength"


def give(latent: Latent, vae: Vae, *pictures: Given) -> tuple[Latent, list[Tensor]]:
    """A LATENT with pictures given to its frames, and what of each it shows.

    Its noise mask has the noise multiplier of each frame. Raises MochiError where one does not fit, before any is
    encoded.
    """
    samples = latent["samples"]
    check_latent(samples.shape)
    check_patches(samples)
    check_encodes(vae)
    frames, (height, width) = geometry.frame_count(samples.shape[2]), samples.shape[3:]
    earlier: GivenFrames | None = latent.get(GIVEN)
    taken = dict(earlier.frames) if earlier is not None else {}
    multipliers, places, shown = [], [], []
    for given in pictures:
        multipliers.append(noise_multiplier(given.strength, given.strength_name))
        places.append(_places(given, frames, taken))
        taken |= dict.fromkeys(places[-1], given.frame)
        shown.append(fitted(given.image, width * geometry.SPACE, height * geometry.SPACE, given.name))

    mask = noise_mask(latent)
    if mask is None:
        mask = samples.new_ones(1, 1, *samples.shape[2:])
    mask, samples = mask.clone(), samples.clone()
    for multiplier, place, picture in zip(multipliers, places, shown, strict=True):
        encoded: Any = vae.encode(picture)
        samples[:, :, place.start : place.stop] = encoded.to(samples)
        mask[:, :, place.start : place.stop] = multiplier
    return {**latent, "samples": samples, "noise_mask": mask, GIVEN: GivenFrames(taken, samples)}, shown


def _places(given: Given, frames: int, taken: Mapping[int, int]) -> range:
    """The latent frames of a picture or a clip. Raises MochiError where it does not fit beside those taken."""
    frame, count = given.frame, len(given.image)
    if count != geometry.nearest_frames(count):
        raise MochiError(
            f"{given.name} has {count} frames, but must be a picture or a clip of 6k + 1 frames: the nearest is "
            f"{geometry.nearest_frames(count)}"
        )
    places = latent_places(frame, count, frames, image=given.name)
    for place in places:
        if place in taken:
            nearest = nearest_free(frame_number(frame, frames), taken, frames) if count == 1 else None
            raise MochiError(
                f"frame is {frame}, but {frames_of_latent(place)} have one given already (frame {taken[place]}): "
                f"a latent stands for {geometry.TIME} frames. Choose another frame"
                f"{'' if nearest is None else f': the nearest that is free is {nearest}'}"
            )
    return places


def _check_overlap(overlap: int, frames: int) -> None:
    if overlap != geometry.nearest_frames(overlap):
        raise MochiError(f"overlap is {overlap}, but must be 6k + 1: the nearest is {geometry.nearest_frames(overlap)}")
    if frames <= geometry.TIME:
        raise MochiError(f"frames is {frames}, but a transition has a beginning and an end: the nearest is 7")
    if 2 * overlap > frames:
        most = _whole(frames // 2)
        raise MochiError(f"overlap is {overlap}, but a video of {frames} frames has room for {most} of each clip")


def _whole(frames: int) -> int:
    """The largest number of frames, 6k + 1, that is not more than these."""
    return (frames - 1) // geometry.TIME * geometry.TIME + 1
