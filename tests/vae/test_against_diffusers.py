"""AsymmVAE equals the diffusers library's, on the same weights, whatever the sizes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.config import DecoderConfig, EncoderConfig
from mochi.vae import Decoder, Encoder
from tests.golden import relative_error
from tests.peers import diffusers_vae, randomised

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
    """Summed over seeds, since the error of a single run is noise."""
    errors = {"ours": torch.zeros(2), "theirs": torch.zeros(2)}
    for seed in range(4):
        decoder, encoder, theirs = networks(seed)
        z = torch.randn(1, 12, 2, 4, 3, generator=torch.Generator().manual_seed(seed))
        video = torch.rand(1, 3, 7, 32, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        video = video.bfloat16().float()  # the rounding of pixels, whose phases it changes, is not the networks'
        exact = decoder(z), encoder(video).mean
        half = [m.bfloat16() for m in (decoder, encoder, theirs)]
        results = {
            "ours": (half[0](z.bfloat16()), half[1](video.bfloat16()).mean),
            "theirs": (half[2].decode(z.bfloat16()).sample, half[2].encode(video.bfloat16()).latent_dist.mean),
        }
        for who, outputs in results.items():
            errors[who] += torch.tensor([relative_error(a.float(), b) for a, b in zip(outputs, exact, strict=True)])
    assert (errors["ours"] <= errors["theirs"]).all(), errors
