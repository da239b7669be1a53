"""What is said before a run that is going to be short of memory."""

import logging

import comfy.model_management as mm
import pytest


@pytest.fixture
def fits(pack):
    return pack.module("nodes.host.sampling.fits")


SHAPE = (1, 12, 28, 60, 106)


def test_says_what_to_choose_instead(fits, model, mochi_sampler, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        mochi_sampler(model)
    assert not [r for r in caplog.records if r.name.endswith("fits")]
    assert fits.shortage(model, SHAPE) is None
    monkeypatch.setattr(mm, "get_free_memory", lambda *_: 500_000_000)
    text = fits.shortage(model, SHAPE)
    assert "A video of 848 x 480, 163 frames needs about" in text and "has 0.5 GB for it; choose" in text
    assert "frames or fewer" in text
    monkeypatch.setattr(mm, "get_free_memory", lambda *_: 0)
    with caplog.at_level(logging.WARNING):
        mochi_sampler(model)
    assert "needs about" in caplog.text


def test_on_a_gpu_the_host_streams_weights(fits, model, monkeypatch):
    """Only what has to be on the device counts against all that it has."""
    monkeypatch.setattr(mm, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(mm, "get_total_memory", lambda *_: 1_100_000_000)
    assert "offloaded" not in fits.shortage(model, SHAPE)
    monkeypatch.setattr(mm, "get_total_memory", lambda *_: 24_000_000_000)
    assert fits.shortage(model, SHAPE) is None


def test_other_networks_are_not_judged(fits, model, monkeypatch):
    monkeypatch.setattr(mm, "get_free_memory", lambda *_: 0)
    clone = model.clone()
    clone.add_object_patch("diffusion_model", model.model.diffusion_model.blocks)
    assert fits.shortage(clone, SHAPE) is None
