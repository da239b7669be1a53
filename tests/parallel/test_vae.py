"""The VAE in strips, over several ranks, is the VAE on one device."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mochi.config import DecoderConfig, EncoderConfig
from mochi.errors import MochiError
from mochi.parallel.owner.group import Group
from mochi.parallel.spmd.vae import plan_strips
from mochi.vae import Decoder, Encoder
from mochi.vae.norm import frame_statistics, pooled
from tests.exact import float32_bound, relative_error
from tests.parallel.helpers import ask
from tests.random_weights import randomised

SIZES = {"base": 8, "multipliers": (1, 2, 2, 3), "res_blocks": (1, 2, 1, 1, 1), "groups": 4}
DECODER = randomised(Decoder(DecoderConfig(**SIZES)), 0)
ENCODER = randomised(Encoder(EncoderConfig(**SIZES, attention_head_dim=8)), 1)
EXACT_DECODER, EXACT_ENCODER = (copy.deepcopy(network).double() for network in (DECODER, ENCODER))
SERVICE = (str(Path(__file__).with_name("vae_service.py")), "StripService")


class Size(NamedTuple):
    """Of latents."""

    batch: int
    frames: int
    height: int
    width: int

    def latents(self, dtype: torch.dtype) -> Tensor:
        shape = (self.batch, 12, self.frames, self.height, self.width)
        return torch.randn(shape, generator=torch.Generator().manual_seed(sum(self))).to(dtype)

    def video(self, dtype: torch.dtype) -> Tensor:
        shape = (self.batch, 3, 6 * self.frames - 5, 8 * self.height, 8 * self.width)
        return (2 * torch.rand(shape, generator=torch.Generator().manual_seed(sum(self))) - 1).to(dtype)


def sizes(smallest: int) -> st.SearchStrategy[Size]:
    lengths = st.integers(smallest, 6)
    return st.builds(Size, st.integers(1, 2), st.integers(1, 4), lengths, lengths)


class StripVAE:
    """The VAE in strips, and on one device, in one dtype."""

    def __init__(self, group: Group):
        self.group = group

    def load(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.decoder, self.encoder = (copy.deepcopy(network).to(dtype) for network in (DECODER, ENCODER))
        ask(
            self.group,
            "load",
            decoder=DECODER.config,
            encoder=ENCODER.config,
            decoder_weights=DECODER.state_dict(),
            encoder_weights=ENCODER.state_dict(),
            dtype=dtype,
        )

    def decode(self, size: Size, chunk: int = 1) -> Tensor:
        """The frames of all ranks' strips. Ranks without a strip have no frames."""
        plan = plan_strips(size.height, size.width, self.group.size)
        answers = ask(self.group, "decode", z=size.latents(self.dtype), chunk=chunk)
        assert [len(parts) for parts in answers[: plan.ranks]] == [-(-size.frames // chunk)] * plan.ranks
        assert not any(answers[plan.ranks :])
        return plan.join({rank: torch.cat(parts, dim=2) for rank, parts in enumerate(answers) if parts})

    def encode(self, size: Size) -> Tensor:
        """The latents of all ranks' strips."""
        plan = plan_strips(size.height, size.width, self.group.size)
        answers = ask(self.group, "encode", video=size.video(self.dtype))
        assert [strip is not None for strip in answers] == [rank < plan.ranks for rank in range(self.group.size)]
        return plan.join(dict(enumerate(answers)))

    def in_strips(self, size: Size, chunk: int = 1) -> tuple[Tensor, Tensor]:
        """Frames and latents, decoded and encoded in strips."""
        return self.decode(size, chunk), self.encode(size)

    def on_one_device(self, size: Size) -> tuple[Tensor, Tensor]:
        return self.decoder(size.latents(self.dtype)), self.encoder(size.video(self.dtype)).mean

    def errors(self, size: Size, chunk: int = 1) -> tuple[float, float]:
        """How far decoding and encoding in strips are from one device."""
        decoded, encoded = map(relative_error, self.in_strips(size, chunk), self.on_one_device(size))
        return decoded, encoded


def exact(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Frames and latents in float64, of what the inputs are in a dtype."""
    return EXACT_DECODER(size.latents(dtype).double()), EXACT_ENCODER(size.video(dtype).double()).mean


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def vae(request) -> Iterator[StripVAE]:
    group = Group(["cpu"] * request.param, service=SERVICE, threads=1, timeout=120)
    yield StripVAE(group)
    group.close()


@torch.inference_mode()
@given(size=sizes(1), chunk=st.integers(1, 3))
@settings(max_examples=10)
def test_strips_are_exact(vae, size, chunk):
    """In float64, so that no rounding hides or feigns a difference, however small the picture."""
    vae.load(torch.float64)
    assert max(vae.errors(size, chunk)) <= 1e-12


@torch.inference_mode()
@given(size=sizes(3), chunk=st.integers(1, 3))
@settings(max_examples=10)
def test_strips_are_as_exact_as_float32_allows(vae, size, chunk):
    vae.load(torch.float32)
    results = vae.in_strips(size, chunk), vae.on_one_device(size), exact(size, torch.float32)
    for strips, one, truth, network in zip(*results, (DECODER, ENCODER), strict=True):
        assert relative_error(strips, truth) <= float32_bound(network, one, truth)


@pytest.mark.parametrize("turned", [False, True])
@torch.inference_mode()
def test_strips_of_a_single_row_or_column(vae, turned):
    ranks = vae.group.size
    size = Size(1, 2, 1, ranks) if turned else Size(1, 2, ranks, 1)
    assert plan_strips(size.height, size.width, ranks).sizes == (1,) * ranks
    vae.load(torch.float64)
    assert max(vae.errors(size)) <= 1e-12


@torch.inference_mode()
def test_bfloat16_is_as_near_as_on_one_device(vae):
    size = Size(1, 3, 5, 6)
    vae.load(torch.bfloat16)
    results = vae.in_strips(size), vae.on_one_device(size), exact(size, torch.bfloat16)
    for ours, theirs, truth in zip(*results, strict=True):
        assert ours.dtype == torch.bfloat16
        assert relative_error(ours, truth) <= 1.2 * relative_error(theirs, truth)


def test_a_picture_that_latents_do_not_divide_is_refused(vae):
    vae.load(torch.float32)
    with pytest.raises(MochiError, match="multiples of 8"):
        ask(vae.group, "encode", video=torch.zeros(1, 3, 1, 16, 20))


@given(height=st.integers(1, 40), width=st.integers(1, 40), ranks=st.integers(1, 9))
def test_every_latent_is_in_one_strip(height, width, ranks):
    plan = plan_strips(height, width, ranks)
    assert plan.ranks == min(ranks, (height, width)[plan.axis - 3])
    assert max(plan.sizes) - min(plan.sizes) <= 1
    frames = torch.arange(16 * height * width).view(1, 1, 1, 4 * height, 4 * width)
    strips = {rank: plan.cut(frames, rank, unit=4) for rank in reversed(range(plan.ranks))}
    assert torch.equal(plan.join(strips), frames)


@pytest.mark.parametrize(("height", "width", "ranks", "sizes"), [(60, 106, 4, (15,) * 4), (16, 24, 2, (12, 12))])
def test_the_largest_strip_is_small_then_the_border(height, width, ranks, sizes):
    assert plan_strips(height, width, ranks).sizes == sizes


@given(
    batch=st.integers(1, 2),
    frames=st.integers(1, 3),
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    offset=st.sampled_from([0.0, 10.0, 1000.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_statistics_of_strips_are_those_of_the_frame(batch, frames, widths, offset, dtype):
    """Far from zero too, where sums of squares would lose the variance."""
    x = torch.randn(batch, 8, frames, 30, sum(widths), generator=torch.Generator().manual_seed(sum(widths)))
    x = (x + offset).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    parts = torch.stack([frame_statistics(strip, 4) for strip in x.split(widths, dim=4)])
    mean, variance = pooled(parts, torch.tensor(widths) / sum(widths))
    groups = x.double().unflatten(1, (4, 2)).permute(0, 3, 1, 2, 4, 5).flatten(3)
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, groups.mean(-1).float(), rtol=3e-7, atol=3e-7)
    torch.testing.assert_close(variance, groups.var(-1, correction=0).float(), rtol=2e-6 + 2e-8 * offset, atol=0)
