"""What is measured of clips, beside clips whose answer is known, and the runs that are compared."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from benchmarks import quality
from benchmarks.looks import flicker, psnr, sharpness, stray
from mochi.config import TINY
from mochi.pipeline import GenerateSettings
from tests.exact import relative_error
from tiny.captions import held_out_prompts
from tiny.clips import BACKGROUNDS, COLOURS, Scene, draw

SCENE = Scene("square", "red", "left", "gray", radius=10.0, start=(40.0, 32.0))


def blurred(clip: np.ndarray, pixels: float) -> np.ndarray:
    return gaussian_filter(clip, (0, pixels, pixels, 0))


@pytest.mark.parametrize("size", [48, 64, 96])
def test_sharpness_is_how_steep_an_edge_is(size):
    """The steepest slope of a step behind a Gaussian is its density at 0."""
    clip = draw(SCENE, 5, size)
    assert 0.7 < sharpness(clip) <= 1
    for pixels in (1.5, 2.5):
        assert sharpness(blurred(clip, pixels)) == pytest.approx(1 / (pixels * np.sqrt(2 * np.pi)), rel=0.15)


def test_an_empty_clip_is_not_sharp():
    assert sharpness(np.full((5, 64, 64, 3), 0.5)) == 0


def test_flicker_is_that_of_the_background():
    """The mean distance of two draws of a Gaussian is 2 / sqrt(pi) of its deviation."""
    clip = draw(SCENE, 9)
    assert flicker(clip) == 0
    noise = np.random.default_rng(0).normal(0, 0.01, clip.shape)
    assert flicker(clip + noise) == pytest.approx(0.01 * 255 * 2 / np.sqrt(np.pi), rel=0.02)


def test_stray_is_the_area_of_other_colours():
    clip = blurred(draw(SCENE, 4), 1.5)
    colours = BACKGROUNDS["gray"], COLOURS["red"]
    assert stray(clip, colours) == 0  # an edge is between the two
    clip[:, :8, :16] = COLOURS["blue"]
    assert stray(clip, colours) == pytest.approx(100 * 8 * 16 / 64**2)


def test_psnr_of_a_shift():
    clip = draw(SCENE, 3)
    assert psnr([clip, clip], [clip, clip + 0.1]) == pytest.approx(10 * np.log10(2) + 20)
    assert psnr([clip], [clip]) == float("inf")


@pytest.mark.parametrize("group, name", [(group, name) for group, runs in quality.GROUPS.items() for name in runs])
def test_every_run_is_one_that_the_model_takes(group, name):
    settings = GenerateSettings.of(TINY.defaults, prompt="", **quality.GROUPS[group][name].chosen)
    settings.check_depth(TINY.dit.depth)


def test_the_linear_schedule_is_a_line():
    run = quality.GROUPS["schedule"]["linear"]
    settings = GenerateSettings.of(TINY.defaults, prompt="", **run.chosen)
    assert settings.sigmas() == pytest.approx(np.linspace(1, 0, quality.STEPS + 1).tolist(), abs=1e-12)


def test_weights_that_say_less_are_farther_from_the_default():
    prompts = held_out_prompts(1, seed=3)
    runs = {name: quality.GROUPS["weights"][name] for name in ("Q8_0", "Q4_0")}
    quick = {"steps": 2, "frames": 7}
    figures = quality.measure({name: replace(run, chosen=quick) for name, run in runs.items()}, prompts, quick)
    assert list(figures) == ["as drawn", "default", *runs]
    assert figures["as drawn"]["as the prompt says"] == "1 of 1" and figures["default"]["PSNR dB"] is None
    assert 60 > figures["Q8_0"]["PSNR dB"] > figures["Q4_0"]["PSNR dB"] + 6


def test_a_quantised_run_has_the_weights_that_the_library_unpacks(tmp_path):
    from gguf import GGMLQuantizationType, quants
    from safetensors.torch import load_file

    from mochi.config import TINY_WEIGHTS

    maker = quality.Maker([], tmp_path)
    pipeline = maker.pipeline(torch.float32, "Q4_0")
    name = "blocks.0.attn.qkv_x.weight"
    weight = load_file(TINY_WEIGHTS / "dit.safetensors")[name].float()
    kind = GGMLQuantizationType.Q4_0
    unpacked = torch.from_numpy(quants.dequantize(quants.quantize(weight.numpy(), kind), kind))
    layer = pipeline.denoiser.dit.get_submodule(name.removesuffix(".weight"))
    eye = torch.eye(weight.shape[1])
    assert relative_error(layer(eye).T, unpacked) < 1e-5
    assert relative_error(weight, unpacked) > 0.01
