"""Windows of clips to the VAE encoder's posteriors, and captions to T5's features, as files of the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checkpoint import load_encoder
from ...device_memory import give_back
from ...model_dir import ModelDir
from ...text import load_prompt_encoder
from .buckets import Bucket
from .cache import Entry
from .files import write_tensors
from .items import Item, Unusable
from .reading import Footage, read

THUMBNAILS, THUMBNAIL_SIDE = 5, 160
"""Frames of a window that are kept as pictures, at most, and the most pixels of a side."""

Tell = Callable[[int, int], None]
"""Hears (done, in all), and may raise to end the work."""


@dataclass(frozen=True)
class Window:
    """A part of a clip, or an image, that becomes one example.

    Attributes:
        bucket: what it is cropped and scaled to.
        first: its first frame, counted at the model's frame rate.
        latents, text: its files in the cache.
    """

    item: Item
    footage: Footage
    bucket: Bucket
    first: int
    latents: Entry
    text: Entry

    @property
    def frames(self) -> range:
        return range(self.first, self.first + self.bucket.frames)


def encode_windows(
    windows: Sequence[Window], model: ModelDir, fps: Fraction, device: torch.device, dtype: torch.dtype, tell: Tell
) -> None:
    """Make the latents of windows. The encoder is loaded once the first of them could be read.

    What cannot be read is refused in the cache, with the reason.
    """
    encoder = None
    for done, window in enumerate(windows):
        tell(done, len(windows))
        try:
            frames = torch.stack(list(read(window.item, window.footage, window.bucket.size, window.frames, fps)))
        except Unusable as error:
            window.latents.refuse(str(error))
            continue
        if encoder is None:
            encoder = load_encoder(model.encoder, dtype, device)
        with torch.no_grad():
            video = as_video(frames.to(device)).to(dtype)
            posterior = encoder.in_pieces(video, report=lambda *_, done=done: tell(done, len(windows)))
        values = {name: values[0] for name, values in posterior._asdict().items()}
        write_tensors(window.latents.path, {**values, "thumbnails": thumbnails(frames)}, window.latents.key)
    del encoder
    if windows:
        tell(len(windows), len(windows))
        give_back(device)


def encode_captions(
    captions: dict[str, Entry], model: ModelDir, device: torch.device, dtype: torch.dtype, tell: Tell
) -> None:
    """Make the features of captions, each with its place in the cache."""
    if not captions:
        return
    tell(0, len(captions))
    length = model.config.dit.text_length
    encoder = load_prompt_encoder(model.text_encoder, model.tokenizer, device=device, length=length, compute=dtype)
    for done, (caption, entry) in enumerate(captions.items(), 1):
        features, mask = encoder(caption)
        write_tensors(entry.path, {"features": _compact(features[mask], dtype)}, entry.key)
        tell(done, len(captions))
    del encoder
    give_back(device)


def as_video(frames: Tensor) -> Tensor:
    """Frames (F, H, W, 3) uint8 -> (1, 3, F, H, W) float32 in -1 to 1."""
    return 2 * (frames.movedim(-1, 0)[None].float() / 255) - 1


def thumbnails(frames: Tensor) -> Tensor:
    """Some of the frames (F, H, W, 3) uint8, evenly spread and scaled down."""
    count, height, width = frames.shape[:3]
    some = frames[torch.linspace(0, count - 1, min(THUMBNAILS, count)).round().long()]
    scale = min(1.0, THUMBNAIL_SIDE / max(height, width))
    size = round(height * scale), round(width * scale)
    small = F.interpolate(some.movedim(-1, 1).float(), size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).movedim(1, -1)


def _compact(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The same values in the dtype that they were computed in, where that holds them all."""
    rounded = values.to(dtype)
    return rounded if torch.equal(rounded.float(), values) else values
