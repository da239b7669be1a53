"""The objective beside its formula in SPEC's words, written out for one clip."""

import math

import pytest
import torch

from mochi.config import PREVIEW, TINY
from mochi.train.objective import draw, fixed, keeps_of, level, padded
from mochi.train.order import generator_of
from mochi.train.settings import TrainSettings
from mochi.vae.encoder import Posterior


def posterior(seed: int, shape=(12, 3, 4, 6)) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    return Posterior(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator) - 3)


def captions(*lengths: int) -> list[torch.Tensor]:
    return [torch.randn(length, 128, generator=torch.Generator().manual_seed(length)) for length in lengths]


def test_input_and_target_are_those_of_flow_matching():
    settings = TrainSettings(caption_dropout=0.0, seed=3)
    one = posterior(0)
    batch = draw([one], captions(5), PREVIEW.latents, settings, first=11)
    again = generator_of(3, -1, 11)
    spread, noise = (torch.randn(one.mean.shape, generator=again) for _ in range(2))
    sigma = torch.rand((), generator=again)
    mean, std = (torch.tensor(v)[:, None, None, None] for v in (PREVIEW.latents.mean, PREVIEW.latents.std))
    z = (one.mean + torch.sqrt(one.logvar.exp()) * spread - mean) / std
    torch.testing.assert_close(batch.latents[0], z)
    torch.testing.assert_close(batch.noisy[0], (1 - sigma) * z + sigma * noise)
    torch.testing.assert_close(batch.target[0], z - noise)


def test_a_clip_is_drawn_alike_in_any_batch():
    settings, both = TrainSettings(seed=1), [posterior(0), posterior(1)]
    together = draw(both, captions(5, 3), TINY.latents, settings, first=4)
    apart = [draw([p], [c], TINY.latents, settings, first=4 + i) for i, (p, c) in enumerate(zip(both, captions(5, 3)))]
    for name in ("latents", "noise", "sigma"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(one, name) for one in apart]))


def test_captions_are_dropped_as_often_as_is_asked():
    settings = TrainSettings(caption_dropout=0.25, seed=5)
    masks = [draw([posterior(0)], captions(4), TINY.latents, settings, first=n).mask for n in range(2000)]
    dropped = sum(not mask.any() for mask in masks)
    assert abs(dropped - 500) < 4 * math.sqrt(2000 * 0.25 * 0.75)
    one = draw([posterior(0)], captions(4), TINY.latents, TrainSettings(caption_dropout=1), first=0)
    assert not one.mask.any() and not one.features.any()


@pytest.mark.parametrize("levels", ["uniform", "logit-normal"])
def test_levels_have_the_distribution_that_is_asked_for(levels):
    settings = TrainSettings(levels=levels, level_mean=0.5, level_deviation=0.8)
    drawn = torch.stack([level(settings, generator_of(n)) for n in range(4000)]).double()
    assert drawn.min() >= 0 and drawn.max() <= 1
    # Kolmogorov and Smirnov: the largest distance from the distribution function; 1.95 is exceeded once in 1000.
    where = drawn.sort().values
    if levels == "uniform":
        expected = where
    else:
        expected = torch.special.ndtr((torch.logit(where) - 0.5) / 0.8)
    steps = torch.arange(1, 4001) / 4000
    assert (expected - steps).abs().max() < 1.95 / math.sqrt(4000)


def test_what_is_measured_by_never_changes():
    one, other = (fixed(posterior(0), captions(4)[0], TINY.latents, 0.3, 7) for _ in range(2))
    assert torch.equal(one.noisy, other.noisy) and one.sigma.tolist() == pytest.approx([0.3])
    assert not torch.equal(one.noise, fixed(posterior(0), captions(4)[0], TINY.latents, 0.3, 8).noise)


def test_shorter_captions_are_padded():
    features, mask = padded(captions(2, 4))
    assert features.shape == (2, 4, 128) and mask.tolist() == [[True, True, False, False], [True] * 4]
    assert not features[0, 2:].any()


def test_as_many_clips_give_way_as_is_asked():
    settings, shares = TrainSettings(batch=3, keep=0.4, seed=1), []
    for step in range(400):
        shares.append(keeps_of(settings, step, 0))
    assert set(shares) == {1, 2} and abs(sum(shares) - 1.2 * 400) < 4 * math.sqrt(400 * 0.2 * 0.8)
    others = captions(7)
    batch = draw([posterior(0), posterior(1)], captions(5, 3), TINY.latents, settings, 0, others, keeps=1)
    assert batch.kept.tolist() == [True, False]
    assert torch.equal(batch.features[0], others[0]) and batch.mask[0].all()
