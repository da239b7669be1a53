"""A video encoded piece by piece is the video encoded whole."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.config import EncoderConfig
from mochi.vae import Encoder, Stream
from mochi.vae.encoder import Seen
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
def test_one_attention_remembers_at_a_time(monkeypatch):
    """So that a long video takes the memory of one block's keys and values, not of all."""
    most, stays = 0, Seen.with_those_before

    def watched(self, *args):
        nonlocal most
        out = stays(self, *args)
        alive.add(self)
        most = max(most, sum(seen.numel() > 0 for seen in alive))
        return out

    alive: weakref.WeakSet = weakref.WeakSet()
    monkeypatch.setattr(Seen, "with_those_before", watched)
    ENCODER.in_pieces(torch.zeros(1, 3, 31, 16, 24))
    assert most == 1


@torch.inference_mode()
def test_work_can_be_stopped():
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ENCODER.in_pieces(torch.zeros(1, 3, 31, 16, 24), report=stop)


@torch.inference_mode()
def test_nothing_is_kept_for_a_piece_that_does_not_come():
    stream = Stream.whole()
    ENCODER(torch.zeros(1, 3, 7, 8, 8), stream)
    assert not stream.seen and not stream.tails
