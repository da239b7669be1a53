"""A concept for the tiny model to learn, a cross in the colours of the ocean: `python -m tiny.concept DIR`.

Writes 24 clips, each beside a text file with its caption, as the trainer of LoRAs takes them. The model has never seen
a cross, nor an object of two colours, nor the two words, which its tokenizer spells letter by letter.
"""

import argparse
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np

from mochi.config import TINY
from mochi.video import VideoWriter

from .captions import caption
from .clips import BACKGROUNDS, DIRECTIONS, SIZE, Scene, draw, random_scene

SHAPE, COLOUR = "cross", "ocean"
PAIRS = tuple(product(DIRECTIONS, BACKGROUNDS))
HELD_OUT = frozenset(zip(DIRECTIONS, BACKGROUNDS, strict=True))
"""Pairs of direction and background that no training clip of the concept has. Prompts have them too."""
QUALITY = 95
"""Of mp4 files, which cannot be lossless."""

Described = tuple[str, Scene]
"""A caption, and a scene that it describes."""


def training_clips(count: int = 24, seed: int = 0) -> list[Described]:
    """The clips to learn from: each pair that is not held out comes up equally often, sizes and places vary."""
    return _described([pair for pair in PAIRS if pair not in HELD_OUT], count, np.random.default_rng([seed, 0x7EAC4]))


def concept_prompts(count: int = 50, seed: int = 0) -> list[Described]:
    """Prompts to judge by: of all pairs equally often, in other words than the training captions or the same."""
    return _described(PAIRS, count, np.random.default_rng([seed, 0xA5C]))


def _described(pairs: Iterable[tuple[str, str]], count: int, rng: np.random.Generator) -> list[Described]:
    pairs = list(pairs)
    order = [pairs[i] for _ in range(-(-count // len(pairs))) for i in rng.permutation(len(pairs))][:count]
    scenes = [random_scene(rng, SHAPE, COLOUR, *pair) for pair in order]
    return [(caption(scene, rng), scene) for scene in scenes]


def write_clips(folder: Path, clips: Iterable[Described], suffix: str = ".mp4") -> list[Path]:
    """Write each clip, and its caption in a text file of the same name, into a folder. Returns the clips' paths.

    suffix: of the clips, which says the format: .mp4, .webm or .gif.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (text, scene) in enumerate(clips):
        path = folder / f"{number:02d}-{scene.direction}-{scene.background}{suffix}"
        with VideoWriter(path, TINY.defaults.fps, (SIZE, SIZE), quality=QUALITY) as video:
            video.write(draw(scene))
        path.with_suffix(".txt").write_text(text + "\n")
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="draws sizes, places and wordings")
    parser.add_argument("--format", choices=("mp4", "webm", "gif"), default="mp4")
    args = parser.parse_args()
    paths = write_clips(args.folder, training_clips(args.clips, args.seed), f".{args.format}")
    print(f"{len(paths)} clips with captions in {args.folder}")


if __name__ == "__main__":
    main()
