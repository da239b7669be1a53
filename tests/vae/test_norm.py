"""The way that norms take on CUDA, by its formulas, is the way that they take on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.config import DecoderConfig, EncoderConfig
from mochi.vae import Decoder, Encoder, stream
from mochi.vae.layers import in_order
from tests.exact import relative_error
from tests.random_weights import randomised

SIZES = {"base": 8, "multipliers": (1, 2, 2, 3), "res_blocks": (1, 1, 1, 1, 1), "groups": 4}
DECODER = randomised(Decoder(DecoderConfig(**SIZES)), 0).double()
ENCODER = randomised(Encoder(EncoderConfig(**SIZES, attention_head_dim=8)), 1).double()


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Kernels are asked for inside; on a CPU that means their formulas."""
    with mock.patch.object(stream, "has_kernels", return_value=True) as has_kernels:
        yield
    assert has_kernels.called


sizes = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.integers(2, 4))


@torch.inference_mode()
@given(size=sizes, chunk=st.integers(1, 3))
@settings(max_examples=10)
def test_decoding(size, chunk):
    batch, *lengths = size
    z = torch.randn(batch, 12, *lengths, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(size)))
    expected = DECODER(z)
    with as_on_cuda():
        parts = list(DECODER.stream(z, chunk))
    assert relative_error(torch.cat(parts, dim=2), expected) <= 1e-12


@torch.inference_mode()
@given(size=sizes)
@settings(max_examples=10)
def test_encoding(size):
    batch, frames, *lengths = size
    shape = (batch, 3, 6 * frames - 5, *(8 * length for length in lengths))
    video = 2 * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(size))) - 1
    expected = ENCODER(video).mean
    with as_on_cuda():
        found = ENCODER.in_pieces(video).mean
    assert relative_error(found, expected) <= 1e-12


def test_weights_in_the_order_of_cuda_are_the_same():
    decoder = randomised(Decoder(DecoderConfig(**SIZES)), 0)
    before = decoder.state_dict()
    assert in_order(decoder, "cpu").blocks[1].blocks[0].stack[2].weight.is_contiguous()
    weight = in_order(decoder, "cuda").blocks[1].blocks[0].stack[2].weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d) and not weight.is_contiguous()
    after = decoder.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
