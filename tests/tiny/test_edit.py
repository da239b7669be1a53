"""The trained tiny model edits a clip: another colour, the same shape, movement and background."""

from dataclasses import astuple

import pytest
import torch

from mochi.config import TINY
from mochi.geometry import latent_shape
from mochi.pipeline import load_pipeline, noise_from_seed
from mochi.sampling import guided, linear_quadratic, sample
from mochi.sampling.edit import drawn_to, invert, windowed
from tiny.judge import judge

STEPS, CFG = TINY.defaults.steps, TINY.defaults.cfg


@pytest.fixture(scope="module")
def tiny():
    pipeline = load_pipeline(dtype=torch.float32, device="cpu")
    dit = pipeline.denoiser.dit

    def flow(prompt: str):
        text = dit.encode_text(*pipeline.encode([prompt]))
        return lambda z, sigma: dit(z, sigma, text)

    return pipeline, flow


@pytest.mark.parametrize("direction", ["left", "up"])
@torch.inference_mode()
def test_a_red_circle_becomes_a_blue_one_that_moves_the_same_way(tiny, direction):
    pipeline, flow = tiny
    sigmas = linear_quadratic(STEPS)

    def seen(z):
        return astuple(judge(torch.cat(list(pipeline.decode(z))).numpy()))

    red, blue, nothing = (
        flow(prompt)
        for prompt in (*(f"a {c} circle moves {direction} on a white background" for c in ("red", "blue")), "")
    )
    noise = noise_from_seed(latent_shape(TINY.defaults.width, TINY.defaults.height, TINY.defaults.frames), 3)
    original = sample(guided(red, nothing, [CFG] * STEPS), noise, sigmas)
    assert seen(original) == ("circle", "red", direction, "white")

    found = invert(lambda z, sigma, _: red(z, sigma), original, sigmas)
    edited = drawn_to(original, guided(blue, nothing, [CFG] * STEPS), windowed(0.6, 0.0, 0.5, STEPS))
    assert seen(sample(edited, found, sigmas)) == ("circle", "blue", direction, "white")
