"""Given frames and skip-layer guidance over two ranks: the same as in one process."""

import pytest
import torch
from exact import assert_close, relative_error

LEVELS = (0.0, 1.0, 0.3, 1.0)
WITHIN = 1e-6


def latent(batch=1, free=0.0):
    each = torch.tensor(LEVELS)[:, None, None]
    clip = torch.randn(batch, 12, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    return {"samples": torch.where(each == 1, free * clip, clip), "noise_mask": each.expand(1, 1, 4, 6, 8).clone()}


@pytest.fixture
def both(frames_model, frames_remote, mochi_sampler):
    mochi_sampler(frames_remote, steps=1)  # so that it is loaded
    return frames_remote, frames_model


@pytest.mark.parametrize("batch", [1, 2])
def test_a_whole_run_is_one_request(both, mochi_sampler, requests, batch):
    one, other = (mochi_sampler(model, latent=latent(batch)) for model in both)
    assert_close(one, other, WITHIN)
    assert requests == ["Sample"]


def test_step_by_step(both, k_sampler, requests):
    one, other = (k_sampler(model, latent=latent()) for model in both)
    assert_close(one, other, WITHIN)
    assert set(requests) == {"Forward"}


def test_an_area_beside_them_goes_step_by_step(both, mochi_sampler, requests):
    given = latent(free=1.0)
    given["noise_mask"][..., :4] = 0
    one, other = (mochi_sampler(model, latent=given, denoise=0.5) for model in both)
    assert_close(one, other, WITHIN)
    assert_close(one[..., :4], given["samples"][..., :4])
    assert set(requests) == {"Forward"}


@pytest.mark.parametrize("sampler", ["mochi_sampler", "k_sampler"])
def test_a_step_cache(request, call, both, sampler):
    run = request.getfixturevalue(sampler)
    cached = [call("MochiParallelTeaCache", model=m, threshold=0.3, start=0.0, end=1.0)[0] for m in both]
    one, other = (
        run(model, latent=latent(), steps=8) if sampler == "mochi_sampler" else run(model, latent=latent())
        for model in cached
    )
    assert_close(one, other, WITHIN)
    if sampler == "mochi_sampler":
        assert relative_error(one, run(both[1], latent=latent(), steps=8)) > 1e-3
