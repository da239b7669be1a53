"""The VAE on CUDA: the values of the CPU, and a decoder that never waits for the device."""

import copy

import pytest
import torch

from mochi.config import DecoderConfig, EncoderConfig
from mochi.vae import Decoder, Encoder
from tests.exact import relative_error
from tests.random_weights import randomised

SIZES = {"base": 8, "multipliers": (1, 2, 2, 3), "res_blocks": (1, 2, 1, 1, 1), "groups": 4}
DECODER = randomised(Decoder(DecoderConfig(**SIZES)), 0).requires_grad_(False)
ENCODER = randomised(Encoder(EncoderConfig(**SIZES, attention_head_dim=8)), 1).requires_grad_(False)


@pytest.mark.parametrize("chunk", [0, 1, 2], ids=["whole", "stream of 1", "stream of 2"])
def test_decoder(cuda, chunk):
    z = torch.randn(1, 12, 5, 4, 5, generator=torch.Generator().manual_seed(2))
    expected = DECODER(z)
    decoder, z = copy.deepcopy(DECODER).cuda(), z.cuda()
    cuda.ledger.take()
    frames = torch.cat(list(decoder.stream(z, chunk)), dim=2) if chunk else decoder(z)
    assert not cuda.ledger.stops, cuda.ledger
    assert relative_error(frames.cpu(), expected) <= 1e-5


@pytest.mark.parametrize("frames", [1, 13])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in pieces"])
def test_encoder(cuda, whole, frames):
    video = 2 * torch.rand(1, 3, frames, 32, 40, generator=torch.Generator().manual_seed(3)) - 1
    expected = ENCODER(video)
    encoder, video = copy.deepcopy(ENCODER).cuda(), video.cuda()
    found = encoder(video) if whole else encoder.in_pieces(video)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours.cpu(), theirs) <= 1e-5
