"""What the captions promise: they name all four attributes, and held-out combinations stay out of training."""

from collections import Counter

import numpy as np

from tiny.captions import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    COMBINATIONS,
    DIRECTION_WORDS,
    HELD_OUT,
    SHAPE_WORDS,
    caption,
    held_out_prompts,
    plain_caption,
    training_scene,
    with_fillers,
)
from tiny.clips import Scene

WORDS = (SHAPE_WORDS, COLOUR_WORDS, DIRECTION_WORDS, BACKGROUND_WORDS)


def test_plain_sentence():
    scene = Scene("circle", "red", "left", "black")
    assert plain_caption(scene) == "a red circle moves left on a black background"
    rng = np.random.default_rng(0)
    share = np.mean([caption(scene, rng).lower().rstrip(".") == plain_caption(scene) for _ in range(2000)])
    assert 0.2 < share < 0.35


def test_captions_name_every_attribute_and_nothing_else():
    rng = np.random.default_rng(1)
    for _ in range(2000):
        scene = training_scene(rng)
        words = set(caption(scene, rng).lower().replace(",", " ").replace(":", " ").rstrip(".").split())
        for table, value in zip(WORDS, scene.key, strict=True):
            named = {name for name, phrases in table.items() for phrase in phrases if set(phrase.split()) <= words}
            assert named == {value}, (words, value)


def test_no_word_stands_for_two_values():
    for table in WORDS:
        phrases = Counter(phrase for synonyms in table.values() for phrase in synonyms)
        assert max(phrases.values()) == 1


def test_captions_vary():
    rng = np.random.default_rng(2)
    scene = Scene("star", "blue", "up", "gray")
    assert len({caption(scene, rng) for _ in range(500)}) > 200


def test_held_out_share_and_coverage():
    assert 0.12 < len(HELD_OUT) / len(COMBINATIONS) < 0.18
    for axis in range(4):
        everything = Counter(key[axis] for key in COMBINATIONS)
        held_out = Counter(key[axis] for key in HELD_OUT)
        for value, count in everything.items():
            assert 0.05 < held_out[value] / count < 0.30


def test_training_never_draws_a_held_out_combination():
    rng = np.random.default_rng(3)
    seen = {training_scene(rng).key for _ in range(4000)}
    assert not seen & HELD_OUT
    assert seen == set(COMBINATIONS) - HELD_OUT


def test_held_out_prompts_are_balanced_and_repeatable():
    prompts = held_out_prompts(200, seed=7)
    assert prompts == held_out_prompts(200, seed=7) != held_out_prompts(200, seed=8)
    counts = Counter(scene.key for _, scene in prompts)
    assert set(counts) == HELD_OUT
    assert max(counts.values()) - min(counts.values()) <= 1


def test_fillers_keep_the_caption():
    rng = np.random.default_rng(4)
    text = plain_caption(Scene("square", "green", "down", "white"))
    for _ in range(50):
        filled = iter(with_fillers(text, rng).split())
        assert all(word in filled for word in text.split())
