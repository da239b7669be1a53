"""Captions of drawn clips: a small grammar with synonyms, and the split into training and held-out combinations."""

import hashlib
import itertools

import numpy as np

from .clips import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, random_scene

SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "ball", "dot"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle",),
    "star": ("star", "five-pointed star"),
    "cross": ("cross",),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "green": ("green",),
    "blue": ("blue",),
    "yellow": ("yellow",),
    "magenta": ("magenta", "pink"),
    "cyan": ("cyan", "turquoise"),
    "ocean": ("ocean",),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black", "dark"),
    "white": ("white",),
    "gray": ("gray", "grey"),
    "brown": ("brown",),
}
DIRECTION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("left", "to the left", "leftwards", "towards the left"),
    "right": ("right", "to the right", "rightwards", "towards the right"),
    "up": ("up", "upwards", "to the top"),
    "down": ("down", "downwards", "to the bottom"),
}
# (finite form, participle)
VERBS = (
    ("moves", "moving"),
    ("drifts", "drifting"),
    ("slides", "sliding"),
    ("glides", "gliding"),
    ("travels", "travelling"),
    ("goes", "going"),
    ("floats", "floating"),
)
PLAIN = "{a} {colour} {shape} moves {direction} on {b} {background} background"
TEMPLATES = (
    "{a} {colour} {shape} {verb} {direction} on {b} {background} background",
    "{a} {colour} {shape} {verb} {direction} over {b} {background} background",
    "{a} {colour} {shape} {verb} {direction} against {b} {background} background",
    "{a} {colour} {shape} {verbing} {direction} on {b} {background} background",
    "{a} {colour} {shape} {verbing} {direction}, {background} background",
    "{colour} {shape} {verbing} {direction}, {background} backdrop",
    "{colour} {shape}, {background} background, {verbing} {direction}",
    "on {b} {background} background, {a} {colour} {shape} {verb} {direction}",
    "on {background}, {a} {colour} {shape} {verb} {direction}",
    "{b} {background} background with {a} {colour} {shape} {verbing} {direction}",
    "a video of {a} {colour} {shape} that {verb} {direction} on {b} {background} background",
    "a clip of {a} {colour} {shape} {verbing} {direction} in front of {b} {background} background",
    "the {shape} is {colour} and {verb} {direction}, the background is {background}",
    "the background is {background}, {a} {colour} {shape} {verb} {direction}",
    "{verbing} {direction} on {background}: {a} {colour} {shape}",
)
_HELD_OUT_SHARE = 0.15
_HELD_OUT_SALT = "304"
"""Chosen so that the held-out combinations hold every attribute value about equally often."""


FILLERS = (
    "slowly", "smoothly", "steadily", "quickly", "gently", "nicely", "big", "small", "large", "little", "bright",
    "shiny", "beautiful", "simple", "flat", "solid", "plain", "single", "coloured", "colored", "high quality", "4k",
    "animation", "video", "clip", "minimal", "geometric", "cartoon", "please", "very", "just", "across the screen",
    "in the frame", "at constant speed", "show me",
)  # fmt: skip
"""Words that change nothing; training strews some in, so that the model learns to pass over them."""


def with_fillers(text: str, rng: np.random.Generator) -> str:
    """A caption with one to three fillers, or made-up words, at random places between its words."""
    words = text.split(" ")
    for _ in range(rng.integers(1, 4)):
        filler = FILLERS[rng.integers(len(FILLERS))]
        if rng.random() < 0.25:
            filler = "".join(chr(97 + i) for i in rng.integers(26, size=rng.integers(2, 9)))
        words.insert(int(rng.integers(len(words) + 1)), filler)
    return " ".join(words)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def fill(template: str, shape: str, colour: str, direction: str, background: str, verb: int = 0) -> str:
    """A template filled with words (not attribute names), articles included."""
    return template.format(
        a=_article(colour),
        b=_article(background),
        colour=colour,
        shape=shape,
        verb=VERBS[verb][0],
        verbing=VERBS[verb][1],
        direction=direction,
        background=background,
    )


def plain_caption(scene: Scene) -> str:
    """The standard sentence, such as "a red circle moves left on a black background"."""
    return fill(PLAIN, *scene.key)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A random description of a scene: the standard sentence in one of four cases, else a free wording.

    In free wordings a word is the attribute's own name in more than half of the cases. One caption in five gets
    a capital letter, a full stop or both.
    """
    text = plain_caption(scene) if rng.random() < 0.25 else _free_caption(scene, rng)
    style = rng.random()
    if style < 0.14:
        text = text[0].upper() + text[1:]
    if 0.06 < style < 0.20:
        text += "."
    return text


def _free_caption(scene: Scene, rng: np.random.Generator) -> str:
    def pick(words: tuple[str, ...]) -> str:
        return words[0] if rng.random() < 0.5 else words[rng.integers(len(words))]

    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    return fill(
        template,
        pick(SHAPE_WORDS[scene.shape]),
        pick(COLOUR_WORDS[scene.colour]),
        pick(DIRECTION_WORDS[scene.direction]),
        pick(BACKGROUND_WORDS[scene.background]),
        int(rng.integers(len(VERBS))),
    )


def _hash_share(key: tuple[str, ...]) -> float:
    digest = hashlib.sha256("|".join((_HELD_OUT_SALT, *key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


COMBINATIONS = tuple(itertools.product(SHAPES, COLOURS, DIRECTIONS, BACKGROUNDS))
HELD_OUT = frozenset(key for key in COMBINATIONS if _hash_share(key) < _HELD_OUT_SHARE)
"""Combinations (shape, colour, direction, background) that training never sees."""


def training_scene(rng: np.random.Generator) -> Scene:
    """A random scene whose combination is not held out."""
    while True:
        scene = random_scene(rng)
        if scene.key not in HELD_OUT:
            return scene


def held_out_prompts(n: int = 200, seed: int = 0) -> list[tuple[str, Scene]]:
    """Prompts for combinations never trained on, each with a scene that it describes.

    All held-out combinations come up about equally often; the wording is drawn as in training.
    """
    rng = np.random.default_rng([seed, 0x4E1D])
    keys = sorted(HELD_OUT)
    order = [keys[i] for _ in range(-(-n // len(keys))) for i in rng.permutation(len(keys))][:n]
    scenes = [random_scene(rng, *key) for key in order]
    return [(caption(scene, rng), scene) for scene in scenes]
