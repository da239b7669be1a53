"""A concept for the tiny model to learn, a cross in the colours of the ocean: `python -m tiny.concept DIR`.

Writes 24 clips, each beside a text file with its caption, as the trainer of LoRAs takes them. The model has never seen
a cross, nor an object of two colours, nor the two words, which its tokenizer spells letter by letter.

The clips are framed as people frame what they show: the cross passes through the middle. Where it passes anywhere, 24
clips are too few to tell what the cross is from where it is (see docs/training.md).
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from mochi.config import TINY
from mochi.video import VideoWriter

from .captions import caption, training_scene
from .clips import BACKGROUNDS, DIRECTIONS, FRAMES, SIZE, Scene, draw, random_scene

SHAPE, COLOUR = "cross", "ocean"
PAIRS = tuple(product(DIRECTIONS, BACKGROUNDS))
HELD_OUT = frozenset(zip(DIRECTIONS, BACKGROUNDS, strict=True))
"""Pairs of direction and background that no training clip of the concept has. Prompts have them too."""
OFF_CENTRE = 3.0
"""How far from the middle, in pixels across and down, the cross of a training clip is halfway, at most."""
RADII = (11.0, 12.0)

Described = tuple[str, Scene]
"""A caption, and a scene that it describes."""


def training_clips(count: int = 24, seed: int = 0) -> list[Described]:
    """The clips to learn from: each pair that is not held out equally often, of about one size and place."""
    rng = np.random.default_rng([seed, 0x7EAC4])
    scenes = _scenes([pair for pair in PAIRS if pair not in HELD_OUT], count, rng)
    return [(caption(scene, rng), scene) for scene in (_framed(scene, rng) for scene in scenes)]


def concept_prompts(count: int = 50, seed: int = 0) -> list[Described]:
    """Prompts to judge by: of all pairs equally often, in other words than the training captions or the same."""
    rng = np.random.default_rng([seed, 0xA5C])
    return [(caption(scene, rng), scene) for scene in _scenes(PAIRS, count, rng)]


def known_captions(count: int = 64, seed: int = 0) -> list[str]:
    """Of clips that the model was trained on, none of which `evaluate_concept` asks for."""
    rng = np.random.default_rng([seed, 0x01D])
    return [caption(training_scene(rng), rng) for _ in range(count)]


def _scenes(pairs: Sequence[tuple[str, str]], count: int, rng: np.random.Generator) -> list[Scene]:
    order = [pairs[i] for _ in range(-(-count // len(pairs))) for i in rng.permutation(len(pairs))][:count]
    return [random_scene(rng, SHAPE, COLOUR, *pair) for pair in order]


def _framed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene, with its object in about the middle halfway."""
    way = np.array(DIRECTIONS[scene.direction]) * scene.speed * (FRAMES - 1)
    start = SIZE / 2 - way / 2 + rng.uniform(-OFF_CENTRE, OFF_CENTRE, 2)
    return replace(scene, start=(float(start[0]), float(start[1])), radius=float(rng.uniform(*RADII)))


def write_clips(folder: Path, clips: Iterable[Described]) -> list[Path]:
    """Write each clip, and its caption in a text file of the same name, into a folder. Returns the clips' paths.

    They are GIFs: mp4 and webm halve the resolution of colours, of which frames of 64 pixels have none to spare.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (text, scene) in enumerate(clips):
        path = folder / f"{number:02d}-{scene.direction}-{scene.background}.gif"
        with VideoWriter(path, TINY.defaults.fps, (SIZE, SIZE)) as video:
            video.write(draw(scene))
        path.with_suffix(".txt").write_text(text + "\n")
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="draws sizes, places and wordings")
    parser.add_argument("--known", type=Path, help="write 64 captions of other clips here, for --keep-prompts")
    args = parser.parse_args()
    paths = write_clips(args.folder, training_clips(args.clips, args.seed))
    print(f"{len(paths)} clips with captions in {args.folder}")
    if args.known:
        args.known.write_text("\n".join(known_captions(seed=args.seed)) + "\n")


if __name__ == "__main__":
    main()
