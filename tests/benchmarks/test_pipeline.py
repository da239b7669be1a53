"""Whole runs beside diffusers' own pipeline, and what is taken for the networks' products."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import host, pipeline, share
from mochi.config import DiTConfig
from tests.exact import relative_error

SMALL = DiTConfig(depth=2, num_heads=2, hidden_x=384, hidden_y=192, mlp_x=1024, mlp_y=512, text_width=64)


@pytest.mark.parametrize("cfg", [4.5, 1.0])
def test_a_whole_run_is_that_of_diffusers(cfg):
    settings = replace(pipeline.SETTINGS, width=48, height=32, frames=7, steps=6, cfg=cfg)
    with torch.inference_mode():
        ours, theirs = (set_up()() for set_up in pipeline.sampling(SMALL, settings).values())
    assert ours.shape == theirs.shape == (1, 12, 2, 4, 6)
    assert relative_error(ours, theirs) < 1e-5


def test_products_are_all_that_the_tiny_model_multiplies_with(tmp_path):
    """Every operation that torch's counter of flops knows is one of PRODUCTS, and the kinds of all three are seen."""
    video = share.Video(tmp_path)
    settings = replace(video.settings(), steps=1, frames=7)
    with FlopCounterMode(display=False) as counter:
        video.save(video.latents(settings), settings)
    counted = {str(operation) for operation in counter.get_flop_counts()["Global"]}
    assert counted and counted <= share.PRODUCTS
    with share.InProducts() as products:
        video.save(video.latents(settings), settings)
    assert {"aten.linear", "aten.mkldnn_convolution", "aten.scaled_dot_product_attention"} <= products.seen


def test_time_in_products_is_part_of_the_whole():
    x = torch.randn(256, 256)
    assert share.product_seconds(lambda: F.silu(x)) == 0
    assert share.product_seconds(lambda: x @ x) > 0


def test_products_are_within_networks_within_the_whole(tmp_path):
    video = share.Video(tmp_path)
    settings = replace(video.settings(), steps=2, frames=7)
    video.latents(settings)
    with share.in_networks(video.pipeline) as passes:
        whole = share.seconds(lambda: video.save(video.latents(settings), settings))
    # T5, the prompts' part of both sides, two steps of both; deep layers, and shallow ones piece by piece.
    assert len(passes) == 1 + 2 + 4 + 1 + 2
    assert 0 < sum(passes) < whole
    assert "forward" not in vars(video.pipeline.denoiser.dit)  # as it was


def test_the_workflow_has_the_seed_and_the_text():
    before = json.loads(host.WORKFLOW.read_text())
    after = host.workflow(77, "another text")
    changed = {node: after[node]["inputs"] for node in after if after[node] != before[node]}
    assert len(changed) == 2
    assert any(inputs.get("seed") == 77 for inputs in changed.values())
    assert any(inputs.get("prompt") == "another text" for inputs in changed.values())


def test_workflow_and_core_do_the_same_work(tmp_path):
    settings = share.Video(tmp_path).settings()
    inputs = {name: value for node in host.workflow(1, share.PROMPT).values() for name, value in node["inputs"].items()}
    for name in ("steps", "cfg", "width", "height", "frames", "fps"):
        assert inputs[name] == getattr(settings, name), name


def test_new_texts_are_new():
    assert len({host.new_prompt(number) for number in range(20)} | {share.PROMPT}) == 21
