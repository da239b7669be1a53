"""A video encoded piece by piece is the video encoded whole."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.config import EncoderConfig
from mochi.vae import Encoder
from mochi.vae.encoder import AttentionBlock, attend
from tests.golden import relative_error
from tests.peers import randomised

SIZES = {"base": 8, "multipliers": (1, 2, 2, 3), "res_blocks": (1, 2, 1, 1, 1), "groups": 4, "attention_head_dim": 8}
ENCODER = randomised(Encoder(EncoderConfig(**SIZES)), 0)


@torch.inference_mode()
@given(
    latent_frames=st.integers(1, 11),
    chunk=st.integers(1, 5),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    batch=st.integers(1, 2),
)
@settings(max_examples=20)
def test_streamed_is_whole(latent_frames, chunk, height, width, batch):
    generator = torch.Generator().manual_seed(latent_frames)
    video = torch.rand(batch, 3, 6 * (latent_frames - 1) + 1, 8 * height, 8 * width, generator=generator) * 2 - 1
    told = []
    pieces = ENCODER.in_pieces(video, chunk, report=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told) and told[-1][0] == told[-1][1]
    whole = ENCODER(video)
    assert relative_error(pieces.mean, whole.mean) <= 1e-6
    assert relative_error(pieces.logvar, whole.logvar) <= 1e-6


@torch.inference_mode()
@given(latent_frames=st.integers(2, 11), height=st.integers(1, 4), width=st.integers(1, 4))
@settings(max_examples=10)
def test_attention_never_has_the_whole_video(latent_frames, height, width):
    """Of a longer video it has fewer rows at a time, down to one."""
    video = torch.zeros(1, 3, 6 * latent_frames - 5, 8 * height, 8 * width)
    most = ENCODER.config.base * 6 * 64 * height * width  # of a latent frame
    with patch("mochi.vae.encoder.attend", side_effect=attend) as spy:
        ENCODER.in_pieces(video)
    blocks = [layer for layer in ENCODER.modules() if isinstance(layer, AttentionBlock)]
    assert len(spy.call_args_list) >= len(blocks) > 0
    for q, k, v in (call.args for call in spy.call_args_list):
        pixels, heads, frames, _ = q.shape
        one_row = pixels <= 4 * width  # of the largest picture that is attended to
        assert one_row or q.numel() + k.numel() + v.numel() + pixels * heads * frames**2 <= most


@torch.inference_mode()
def test_work_can_be_stopped():
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ENCODER.in_pieces(torch.zeros(1, 3, 31, 16, 24), report=stop)
