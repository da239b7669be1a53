"""What a network needs from beyond its picture, it asks of its borders."""

import copy

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.config import DecoderConfig, EncoderConfig
from mochi.vae import Borders, Decoder, Encoder
from tests.exact import float32_bound, relative_error
from tests.random_weights import randomised

SIZES = {"base": 8, "multipliers": (1, 2, 2, 3), "res_blocks": (1, 1, 1, 1, 1), "groups": 4}
DECODER = randomised(Decoder(DecoderConfig(**SIZES)), 0)
ENCODER = randomised(Encoder(EncoderConfig(**SIZES, attention_head_dim=8)), 1)


class Torus(Borders):
    """A picture that goes on, beyond its border, at the opposite one."""

    def pad(self, x, time, rows, columns):
        return super().pad(F.pad(x, (columns, columns, rows, rows, 0, 0), mode="circular"), time, 0, 0)

    def activate(self, norm, x, time, rows, columns):
        return self.pad(F.silu(self.norm(norm, x)), time, rows, columns)


turns = st.tuples(st.integers(0, 3), st.integers(0, 4))


@torch.inference_mode()
@given(turn=turns, frames=st.integers(1, 3))
@settings(max_examples=10)
def test_a_decoder_on_a_torus_does_not_know_where_the_border_is(turn, frames):
    z = torch.randn(1, 12, frames, 4, 5, generator=torch.Generator().manual_seed(frames))

    def decoded(z, decoder=DECODER):
        return torch.cat(list(decoder.stream(z, borders=Torus())), dim=2)

    exact = decoded(z.double(), copy.deepcopy(DECODER).double())
    turned = decoded(z.roll(turn, (3, 4))).roll([-8 * n for n in turn], (3, 4))
    assert relative_error(turned, exact) <= float32_bound(DECODER, decoded(z), exact)


@torch.inference_mode()
@given(turn=turns, frames=st.sampled_from([1, 7]))
@settings(max_examples=10)
def test_an_encoder_on_a_torus_does_not_know_where_the_border_is(turn, frames):
    video = 2 * torch.rand(1, 3, frames, 32, 40, generator=torch.Generator().manual_seed(frames)) - 1
    exact = copy.deepcopy(ENCODER).double()(video.double(), Torus()).mean
    turned = ENCODER(video.roll([8 * n for n in turn], (3, 4)), Torus()).mean.roll([-n for n in turn], (3, 4))
    assert relative_error(turned, exact) <= float32_bound(ENCODER, ENCODER(video, Torus()).mean, exact)
