"""Skip-layer guidance: a run of three passes a step, the third by a network that lacks some blocks."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mochi.config import TINY, DiTConfig
from mochi.dit import AsymmDiT
from mochi.dit.cache import CachePlan
from mochi.errors import MochiError
from mochi.pipeline.local import LocalDenoiser
from mochi.sampling import Given, SkipLayers, Watch, guided
from mochi.sampling.guidance import parse_layers
from mochi.settings import GenerateSettings
from tests.exact import assert_close, relative_error
from tests.random_weights import randomised

CONFIG = DiTConfig(depth=4, num_heads=2, hidden_x=32, hidden_y=16, mlp_x=64, mlp_y=32, text_width=32, text_length=16)
MODEL = randomised(AsymmDiT(CONFIG), 0)
SETTINGS = GenerateSettings.of(TINY.defaults, prompt="", seed=0, width=32, height=32, frames=13, steps=3)
GENERATOR = torch.Generator().manual_seed(0)
NOISE, CLIP = torch.randn(2, 1, 12, 3, 4, 4, generator=GENERATOR).unbind(0)
FEATURES, MASK = torch.randn(2, 16, 32, generator=GENERATOR), torch.arange(16) < torch.tensor([[9], [0]])


def lacking(layers: tuple[int, ...]) -> AsymmDiT:
    """The network without some of its blocks: what passes them by."""
    network = copy.deepcopy(MODEL)
    network.blocks = torch.nn.ModuleList(block for i, block in enumerate(network.blocks) if i not in layers)
    return network


def run(given: Given | None = None, **settings) -> Tensor:
    with torch.inference_mode():
        return LocalDenoiser(MODEL).sample(FEATURES, MASK, NOISE, replace(SETTINGS, **settings), Watch(), given)


@torch.inference_mode()
def three_passes(
    cfg: list[float], scale: float, layers: tuple[int, ...], rescale: float, given: Given | None
) -> Tensor:
    """The loop written out."""
    skipping = lacking(layers)
    prompt, empty = (MODEL.encode_text(FEATURES[i : i + 1], MASK[i : i + 1]) for i in (0, 1))
    m = torch.tensor(given.multipliers if given else (1.0, 1.0, 1.0))[:, None, None]
    sigmas = SETTINGS.sigmas()
    z = (1 - m) * given.latents + m * NOISE if given else NOISE
    for i, (now, then) in enumerate(pairwise(sigmas)):
        sigma = now * m.view(1, 3)
        cond, skipped, uncond = MODEL(z, sigma, prompt), skipping(z, sigma, prompt), MODEL(z, sigma, empty)
        flow = uncond + cfg[i] * (cond - uncond) + scale * (cond - skipped)
        flow = flow * (rescale * cond.std() / flow.std() + 1 - rescale)
        z = z + (now - then) * m * flow
    return z


GIVEN = Given(CLIP, (0.0, 0.3, 1.0))


@pytest.mark.parametrize("given", [None, GIVEN], ids=["free", "given"])
@pytest.mark.parametrize(("layers", "rescale"), [((2,), 0.0), ((0, 3), 0.7)])
@pytest.mark.parametrize("cfg", [[3.0, 3.0, 3.0], [4.0, 1.0, 2.0]], ids=["guided", "a step without"])
def test_equals_three_passes(cfg, layers, rescale, given):
    found = run(given, cfg=cfg, stg=1.5, stg_layers=layers, stg_rescale=rescale)
    assert_close(found, three_passes(cfg, 1.5, layers, rescale, given), within=1e-6)
    assert relative_error(found, run(given, cfg=cfg)) > 1e-3


def test_without_a_scale_there_is_no_third_pass(monkeypatch):
    passes = []
    hook = MODEL.register_forward_hook(lambda *_: passes.append(1))
    try:
        plain = run(cfg=3.0)
        assert torch.equal(run(cfg=3.0, stg=0.0, stg_layers=(1,)), plain)
        assert len(passes) == 2 * 2 * SETTINGS.steps
        run(cfg=1.0, stg=1.0, stg_layers=(1,))
        assert len(passes) == 3 * 2 * SETTINGS.steps
    finally:
        hook.remove()


@pytest.mark.parametrize("given", [None, GIVEN, Given(CLIP, (0.0, 0.0, 0.0))], ids=["free", "given", "all kept"])
def test_a_step_cache_at_threshold_0_changes_no_bit(monkeypatch, given):
    """Of three passes, the cache keeps each apart."""
    guidance = {"cfg": 3.0, "stg": 1.0, "stg_layers": (1,)}
    plain = run(given, **guidance)
    monkeypatch.setattr(GenerateSettings, "cache", lambda settings: CachePlan(0.0, tuple(settings.sigmas())))
    assert torch.equal(run(given, **guidance), plain)


def test_all_deviation_is_taken_back():
    """Each sample's own."""
    cond, skipped, flow = torch.randn(3, 4, 12, 2, 2, 2, generator=torch.Generator().manual_seed(1)).unbind(0)
    flow[1] *= 5
    found = SkipLayers((0,), 2.0, rescale=1.0).guide(flow, cond, skipped)
    assert torch.allclose(found.flatten(1).std(1), cond.flatten(1).std(1))
    free = SkipLayers((0,), 2.0).guide(flow, cond, skipped)
    assert torch.equal(free, flow + 2.0 * (cond - skipped))
    halved = SkipLayers((0,), 2.0, rescale=0.5).guide(flow, cond, skipped)
    assert torch.allclose(halved, (found + free) / 2, atol=1e-5)


def test_what_guides_is_the_pass_with_the_prompt_not_the_guided_one():
    ones = torch.ones(1, 1, 1, 1, 2)
    predict = guided(
        lambda z, s: 3 * ones, lambda z, s: ones, [4.0, 1.0], lambda z, s: 2.5 * ones, SkipLayers((0,), 2.0)
    )
    assert predict(ones, ones, 0).unique().item() == 1 + 4 * (3 - 1) + 2 * (3 - 2.5)
    assert predict(ones, ones, 1).unique().item() == 3 + 2 * (3 - 2.5)


@given(layers=st.lists(st.integers(0, 99), min_size=1, max_size=5), separator=st.sampled_from([", ", ",", " "]))
def test_layers_as_people_write_them(layers, separator):
    assert parse_layers(separator.join(map(str, layers))) == tuple(sorted(set(layers)))


@pytest.mark.parametrize("text", ["", " ", ",", "x", "-1", "3.5", "3;4", "34, last"])
def test_what_is_no_list_of_layers(text):
    with pytest.raises(MochiError, match=r"--stg-layers is .*, but must be the number of a block"):
        parse_layers(text, "--stg-layers")


@pytest.mark.parametrize(("layer", "nearest"), [(48, 47), (99, 47), (-1, 0)])
def test_layers_that_the_network_does_not_have(layer, nearest):
    with pytest.raises(MochiError, match=rf"stg_layers has {layer}, but .* 0 to 47: the nearest is {nearest}$"):
        SkipLayers((3, layer)).check(48)
    SkipLayers((0, 47)).check(48)
