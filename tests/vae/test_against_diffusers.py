"""AsymmVAE equals the diffusers library's, on the same weights, whatever the sizes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.config import DecoderConfig, EncoderConfig
from mochi.vae import Decoder, Encoder
from tests.exact import relative_error
from tests.peers.diffusers import diffusers_vae
from tests.random_weights import randomised

# Of the published proportions: with less channels in a norm's group, a picture of one latent says little in float32.
SIZES = {"base": 32, "multipliers": (1, 2, 4, 6), "res_blocks": (1, 2, 1, 1, 1)}

latent_sizes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


def networks(seed: int):
    decoder = randomised(Decoder(DecoderConfig(**SIZES)), seed)
    encoder = randomised(Encoder(EncoderConfig(**SIZES)), seed + 1)
    return decoder, encoder, diffusers_vae(decoder, encoder)


@torch.inference_mode()
@given(size=latent_sizes, seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_decoder_equals_diffusers_in_float32(size, seed):
    decoder, _, theirs = networks(seed)
    batch, t, h, w = size
    z = torch.randn(batch, 12, t, h, w, generator=torch.Generator().manual_seed(seed))
    out = decoder(z)
    assert out.shape == (batch, 3, 6 * (t - 1) + 1, 8 * h, 8 * w)
    assert relative_error(out, theirs.decode(z, return_dict=False)[0]) <= 5e-6


@torch.inference_mode()
@given(size=latent_sizes, seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_encoder_equals_diffusers_in_float32(size, seed):
    _, encoder, theirs = networks(seed)
    batch, t, h, w = size
    video = torch.rand(batch, 3, 6 * (t - 1) + 1, 8 * h, 8 * w, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    ours, posterior = encoder(video), theirs.encode(video, return_dict=False)[0]
    assert ours.mean.shape == (batch, 12, t, h, w)
    assert relative_error(ours.mean, posterior.mean) <= 5e-6
    assert relative_error(ours.logvar.clamp(-30, 20), posterior.logvar) <= 5e-6


@torch.inference_mode()
def test_bfloat16_is_no_further_from_float32_than_diffusers():
    """Both round the same weights, so each pair of errors is of one network and one input. Their ratio's mean is not
    above 1 by more than chance: three of its standard errors. Most pairs are small, the last few take the ways of
    large pictures, and attention over frames."""
    ratios = torch.stack([error_ratios(seed, *((1, 2, 2) if seed < 12 else (2, 3, 3))) for seed in range(16)]).log()
    chance = ratios.std(0) / len(ratios) ** 0.5
    assert (ratios.mean(0) <= 3 * chance).all(), (ratios.mean(0), chance)


def error_ratios(seed: int, t: int, h: int, w: int) -> torch.Tensor:
    """Our bfloat16 error over that of diffusers, of a decoder and of an encoder, on latents of t x h x w and a video of
    their size."""
    decoder, encoder, theirs = (network.bfloat16() for network in networks(seed))
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(1, 12, t, h, w, generator=generator).bfloat16()
    video = (torch.rand(1, 3, 6 * t - 5, 8 * h, 8 * w, generator=generator) * 2 - 1).bfloat16()
    ours = decoder(z), encoder(video).mean
    peers = theirs.decode(z).sample, theirs.encode(video).latent_dist.mean
    exact = decoder.float()(z.float()), encoder.float()(video.float()).mean
    errors = [[relative_error(made, truth) for made, truth in zip(who, exact, strict=True)] for who in (ours, peers)]
    return torch.tensor(errors[0]) / torch.tensor(errors[1])
