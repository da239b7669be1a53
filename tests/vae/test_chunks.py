"""How many latent frames a GPU decodes at a time."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.config import PREVIEW
from mochi.memory import decoding
from mochi.vae.chunks import BUSY, LARGEST, chunk_for

DECODER = PREVIEW.decoder
shapes = st.tuples(st.integers(1, 3), st.just(12), st.integers(1, 40), st.integers(1, 90), st.integers(1, 160))


def test_the_published_size():
    latents = (1, 12, 28, 60, 106)
    assert [chunk_for(DECODER, latents, free) for free in (8e9, 20e9, 80e9)] == [1, 2, 4]
    assert chunk_for(DECODER, latents, 1e12, wanted=28) == 6  # the seventh would be more than can be counted


@given(shape=shapes, free=st.floats(0, 200e9), dtype=st.sampled_from([torch.bfloat16, torch.float32]))
def test_what_is_taken_fits(shape, free, dtype):
    batch, _, frames, height, width = shape
    chunk = chunk_for(DECODER, shape, free, dtype)
    assert 1 <= chunk <= frames
    if chunk > 1:
        parts = decoding(DECODER, shape, compute=dtype, chunk=chunk).parts
        assert sum(parts[name] for name in ("tails", "deep layers", "layers", "kernels")) <= free / 2
        assert 128 * batch * (6 * chunk + 2) * (8 * height + 2) * (8 * width + 2) <= LARGEST
        assert batch * 6 * (chunk - 1) * 64 * height * width < BUSY
    assert chunk <= chunk_for(DECODER, shape, 2 * free, dtype)
