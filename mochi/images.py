"""Files of pictures that frames of a video are given: how people name them, and what is read of them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import MochiError
from .geometry import latent_count
from .given import fitted, frame_number, frames_of_latent, latent_places, nearest_free, noise_multiplier
from .variant import takes_frames

FORM = "FILE[@FRAME[=STRENGTH]]"


@dataclass(frozen=True)
class GivenImage:
    """A picture that a frame of a video is given.

    Attributes:
        file: of any kind that Pillow reads.
        frame: counted from 0, or from the end, -1 being the last one.
        strength: 1 where it stays as it is; with less, the video may change it.
    """

    file: str
    frame: int = 0
    strength: float = 1.0

    @classmethod
    def of(cls, value: Any) -> GivenImage:
        """From FORM, or from an object of JSON with these attributes. Raises MochiError, naming what is wrong."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return _parsed(value)
        known = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or value.get("file") is None or not value.keys() <= set(known):
            raise MochiError(f"images has {value!r}, but must have {FORM}, or objects with {', '.join(known)}")
        return cls(**{name: attribute for name, attribute in value.items() if attribute is not None})

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or not self.file:
            raise MochiError(f"images has {self.file!r} as a file, but must have the name of one")
        if not isinstance(self.frame, int) or isinstance(self.frame, bool):
            raise MochiError(f"{self.name}: frame is {self.frame!r}, but must be a whole number")
        known = isinstance(self.strength, (int, float)) and not isinstance(self.strength, bool)
        if not known or not _is_number(self.strength, float):
            raise MochiError(f"{self.name}: strength is {self.strength!r}, but must be a number")
        noise_multiplier(self.strength, f"{self.name}: strength")

    @property
    def name(self) -> str:
        """For messages."""
        return f"image {self.file}"

    def read(self, width: int, height: int) -> Tensor:
        """What the video shows of it: (1, height, width, 3), float32 in [0, 1].

        Raises MochiError on a file that is no picture, and on a picture that a video cannot show.
        """
        return fitted(read_picture(self.file, self.name), width, height, self.name)


def by_latent(images: Sequence[GivenImage], frames: int) -> dict[int, GivenImage]:
    """The pictures, by the number of the latent frame that each is given to.

    frames: how many the video has. Raises MochiError on a frame that it does not have, and on two for one latent.
    """
    given: dict[int, GivenImage] = {}
    for image in images:
        (place,) = latent_places(image.frame, 1, frames, f"{image.name}: frame")
        if place in given:
            nearest = nearest_free(frame_number(image.frame, frames), given, frames)
            advice = "no other is free" if nearest is None else f"the nearest that is free is {nearest}"
            raise MochiError(
                f"{image.name}: frame is {image.frame}, but {given[place].name} is given to frame {given[place].frame} "
                f"already, and {frames_of_latent(place)} can have one only: {advice}"
            )
        given[place] = image
    return given


def noise_multipliers(images: Sequence[GivenImage], frames: int, variant: str) -> tuple[float, ...]:
    """How much of the noise each latent frame gets, 1 for those without a picture.

    A model that knows one noise level for all keeps its pictures, whatever their strength: 0. Raises MochiError like
    `by_latent`, and where nothing is left to make.
    """
    multipliers, takes = [1.0] * latent_count(frames), takes_frames(variant)
    for place, image in by_latent(images, frames).items():
        multipliers[place] = noise_multiplier(image.strength) if takes else 0.0
    if not any(multipliers):
        raise MochiError(
            f"frames is {frames}, and images that stay as they are have all of them: nothing is left to make. "
            f"Choose more frames{', or a strength below 1' if takes else ''}"
        )
    return tuple(multipliers)


def read_picture(file: str, name: str = "image") -> Tensor:
    """The first picture in a file, upright: (1, H, W, 3), or with transparency 4, float32 in [0, 1].

    Raises MochiError where there is none.
    """
    try:
        with Image.open(file) as opened:
            return _values(ImageOps.exif_transpose(opened), opened.format, name)
    except MochiError:
        raise
    except FileNotFoundError as error:
        raise MochiError(f"{name}: there is no such file{_advice(file)}") from error
    except UnidentifiedImageError as error:
        raise MochiError(f"{name}: not a picture that can be read; save it as PNG or JPEG") from error
    except Exception as error:  # what decoders of Pillow raise on damaged files is of many kinds
        reason = getattr(error, "strerror", None) or error
        raise MochiError(f"{name}: cannot be read, or is damaged ({reason})") from error


def _values(picture: Image.Image, kind: str | None, name: str) -> Tensor:
    if picture.mode == "F" or (picture.mode == "I" and kind != "PNG"):
        raise MochiError(f"{name}: its pixels are numbers of 32 bits, of no known range; save it as PNG or JPEG")
    if picture.mode.startswith("I"):  # grey in 16 bits, which Pillow's own conversion would clip to 8
        grey = torch.from_numpy(np.asarray(picture).astype(np.float32) / (2**16 - 1))
        return grey.clamp(0, 1)[None, :, :, None].repeat(1, 1, 1, 3)
    colours = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    return torch.from_numpy(np.asarray(colours, dtype=np.float32) / 255)[None]


def _parsed(text: str) -> GivenImage:
    """A file, its frame and its strength. A name may itself have the signs: a file of the whole name goes first."""
    if _exists(text):
        return GivenImage(text)
    file, sign, place = text.rpartition("@")
    frame, equals, strength = place.partition("=")
    is_place, is_strength = _is_number(frame, int), not equals or _is_number(strength, float)
    if sign and is_place and is_strength:
        return GivenImage(file, int(frame), float(strength) if equals else 1.0)
    if sign and _exists(file):
        wrong = f"{strength!r} is no strength from 0 to 1" if is_place else f"{frame!r} is no whole number of a frame"
        raise MochiError(f"image {text}: {wrong}; it is written {FORM}")
    return GivenImage(text)


def _is_number(text: str | float, kind: type[int] | type[float]) -> bool:
    try:
        return math.isfinite(kind(text))
    except (ValueError, OverflowError):
        return False


def _exists(file: str) -> bool:
    """Whether there is a file of that name; one that no system can have is none."""
    try:
        return os.path.isfile(file)
    except ValueError:
        return False


def _advice(file: str) -> str:
    """For a name that has a strength behind it, but no frame."""
    head, sign, strength = file.rpartition("=")
    return f"; a strength stands behind a frame: {head}@0={strength}" if sign and _exists(head) else ""
