"""The built-in model obeys prompts that it was never trained on. The figures of its card come from 200; here are 16."""

import numpy as np

from mochi.config import TINY_WEIGHTS
from tiny.captions import held_out_prompts
from tiny.evaluate import generate
from tiny.sample import obeyed


def test_obeys_held_out_prompts():
    prompts, scenes = zip(*held_out_prompts(16, seed=5), strict=True)
    shape, colour, direction, background = obeyed(list(generate(TINY_WEIGHTS, prompts)), scenes).sum(0)
    assert min(colour, background) >= 15
    assert direction >= 14
    assert shape >= 13


def test_same_seed_same_video():
    prompt = "a green star moves up on a gray background"
    first, second = (next(iter(generate(TINY_WEIGHTS, [prompt], steps=4))) for _ in range(2))
    assert np.array_equal(first, second)


def test_weights_fit_into_the_repository():
    size = sum(file.stat().st_size for file in TINY_WEIGHTS.rglob("*") if file.is_file())
    assert size <= 16 * 2**20
