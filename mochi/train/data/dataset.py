"""What is trained on: encoded windows of clips, with their captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ...geometry import SPACE, frame_count
from ...vae.encoder import Posterior
from .files import read_tensor
from .items import Skipped


@dataclass(frozen=True)
class Example:
    """A window of a clip, or an image. Its values are read when they are asked for.

    Attributes:
        name: for messages, such as `clip.mp4 from 1.2 s`.
        source: the clip that it is of, such as `clip.mp4`.
        caption: what it shows.
        latents, text: the files in the cache.
        shape: latent frames, rows and columns.
    """

    name: str
    source: str
    caption: str
    latents: Path
    text: Path
    shape: tuple[int, int, int]

    @property
    def bucket(self) -> tuple[int, int, int]:
        """Width and height in pixels, and frames."""
        frames, rows, columns = self.shape
        return columns * SPACE, rows * SPACE, frame_count(frames)

    def posterior(self) -> Posterior:
        """Of the VAE latents, each (12, T, h, w) float32. Raises MochiError where the file is gone."""
        return Posterior(*(read_tensor(self.latents, name).float() for name in Posterior._fields))

    def features(self) -> Tensor:
        """T5's features of the caption, real tokens only: (L, width) float32. Raises MochiError like `posterior`."""
        return read_tensor(self.text, "features").float()

    def thumbnails(self) -> Tensor:
        """Some frames as they were encoded, scaled down: (F, h, w, 3) uint8. Raises MochiError like `posterior`."""
        return read_tensor(self.latents, "thumbnails")


@dataclass(frozen=True)
class TrainingSet:
    """All examples, always in the same order.

    Attributes:
        examples: at least one.
        skipped: clips and images that are not trained on, and why.
        key: a digest of all that the examples were made from.
        prompts: files in the cache with the features of other texts.
    """

    examples: tuple[Example, ...]
    skipped: tuple[Skipped, ...]
    key: str
    prompts: Mapping[str, Path] = field(default_factory=dict)

    def features(self, prompt: str) -> Tensor:
        """T5's features of one of `prompts`, real tokens only: (L, width) float32. Raises MochiError like Example."""
        return read_tensor(self.prompts[prompt], "features").float()
