"""A video decoded piece by piece is the video decoded whole."""

import copy
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.live import peak_bytes
from mochi.checkpoint import load_decoder
from mochi.config import TINY_WEIGHTS, DecoderConfig
from mochi.vae import Decoder, Stream
from tests.exact import float32_bound, relative_error
from tests.random_weights import randomised
from tests.vae.videos import ANY_VIDEO

DECODER = randomised(Decoder(DecoderConfig(base=8, multipliers=(1, 2, 2, 3), res_blocks=(1, 2, 1, 1, 1), groups=4)), 0)
PUBLISHED = randomised(Decoder(DecoderConfig(base=8, groups=2)), 0)  # its blocks, a sixteenth of its width
TRAINED = load_decoder(TINY_WEIGHTS / "decoder.safetensors", torch.float32)


@pytest.mark.parametrize("decoder", [DECODER, PUBLISHED, TRAINED], ids=["random", "published structure", "tiny"])
@torch.inference_mode()
@given(**ANY_VIDEO)
@settings(max_examples=20)
def test_streamed_is_whole(decoder, frames, chunk, height, width, batch):
    latent_frames = (frames - 1) // 6 + 1
    z = torch.randn(batch, 12, latent_frames, height, width, generator=torch.Generator().manual_seed(frames))
    in_double = copy.deepcopy(decoder).double()
    exact = in_double(z.double())
    assert relative_error(streamed(in_double, z.double(), chunk), exact) <= 1e-13
    assert relative_error(streamed(decoder, z, chunk), exact) <= float32_bound(decoder, decoder(z), exact)


def streamed(decoder: Decoder, z: torch.Tensor, chunk: int) -> torch.Tensor:
    """The frames of all pieces, which are as many and as long as they should be."""
    batch, _, latent_frames, height, width = z.shape
    parts = list(decoder.stream(z, chunk))
    assert len(parts) == (-(-latent_frames // chunk) if chunk > 1 else pieces_by_two(latent_frames))
    assert max(part.shape[2] for part in parts) <= (6 * chunk if chunk > 1 else 4)
    whole = torch.cat(parts, dim=2)
    assert whole.shape == (batch, 3, 6 * latent_frames - 5, 8 * height, 8 * width)
    return whole


def pieces_by_two(latent_frames: int) -> int:
    """Of four latent frames at a time, each expanded to three, and the first of all to one."""
    expanded = [3 * min(4, latent_frames - start) - 2 * (start == 0) for start in range(0, latent_frames, 4)]
    return sum(-(-count // 2) for count in expanded)


@torch.inference_mode()
def test_memory_between_chunks_does_not_grow():
    z, stream, sizes = torch.randn(1, 12, 6, 2, 2), Stream(), []
    for part in z.split(1, dim=2):
        DECODER(part, stream)
        stream.started = True
        sizes.append(sum(tail.untyped_storage().nbytes() for tail in stream.tails.values()))
    assert len(set(sizes)) == 1


@given(chunk=st.integers(1, 3))
@settings(max_examples=3)
def test_a_long_video_takes_the_memory_of_a_short_one(chunk):
    def peak(frames: int) -> int:
        z = torch.randn(1, 12, (frames - 1) // 6 + 1, 3, 4)
        return peak_bytes(lambda: deque(DECODER.stream(z, chunk), maxlen=0), [z, *DECODER.parameters()])

    assert peak(163) == peak(49)


@torch.inference_mode()
def test_nothing_is_kept_for_a_chunk_that_does_not_come():
    z, whole, pieces = torch.randn(1, 12, 3, 2, 2), Stream.whole(), Stream()
    DECODER(z, whole)
    assert not whole.tails
    DECODER(z[:, :, :1], pieces)
    pieces.started = True
    assert pieces.tails
    pieces.ends = True
    DECODER(z[:, :, 1:], pieces)
    assert not pieces.tails
