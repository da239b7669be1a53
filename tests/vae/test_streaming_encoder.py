"""A video encoded piece by piece is the video encoded whole."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.checkpoint import load_encoder
from mochi.config import TINY_WEIGHTS, EncoderConfig
from mochi.vae import Encoder
from mochi.vae.encoder import AttentionBlock
from tests.exact import float32_bound, relative_error
from tests.random_weights import randomised
from tests.vae.videos import ANY_VIDEO

SIZES = {"base": 8, "multipliers": (1, 2, 2, 3), "res_blocks": (1, 2, 1, 1, 1), "groups": 4, "attention_head_dim": 8}
ENCODER = randomised(Encoder(EncoderConfig(**SIZES)), 0)
TRAINED = load_encoder(TINY_WEIGHTS / "encoder.safetensors", torch.float32)
PUBLISHED = randomised(Encoder(EncoderConfig(base=8, groups=2, attention_head_dim=8)), 0)  # an eighth as wide


@pytest.mark.parametrize("encoder", [ENCODER, PUBLISHED, TRAINED], ids=["random", "published structure", "tiny"])
@torch.inference_mode()
@given(**ANY_VIDEO)
@settings(max_examples=20)
def test_streamed_is_whole(encoder, frames, chunk, height, width, batch):
    generator = torch.Generator().manual_seed(frames)
    video = torch.rand(batch, 3, frames, 8 * height, 8 * width, generator=generator) * 2 - 1
    in_double = copy.deepcopy(encoder).double()
    exact = torch.cat(in_double(video.double()), dim=1)
    assert relative_error(streamed(in_double, video.double(), chunk), exact) <= 1e-12
    whole = torch.cat(encoder(video), dim=1)
    assert relative_error(streamed(encoder, video, chunk), exact) <= float32_bound(encoder, whole, exact)


def streamed(encoder: Encoder, video: torch.Tensor, chunk: int) -> torch.Tensor:
    """Mean and log-variance; what is reported of the pieces never falls, up to all of them."""
    told = []
    pieces = encoder.in_pieces(video, chunk, report=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told) and told[-1][0] == told[-1][1]
    return torch.cat(pieces, dim=1)


@torch.inference_mode()
@given(latent_frames=st.integers(2, 11), height=st.integers(1, 4), width=st.integers(1, 4))
@settings(max_examples=10)
def test_attention_never_has_the_whole_video(latent_frames, height, width):
    """Of a longer video it has fewer rows at a time, down to one."""
    video = torch.zeros(1, 3, 6 * latent_frames - 5, 8 * height, 8 * width)
    most = ENCODER.config.base * 6 * 64 * height * width  # of a latent frame
    blocks = [layer for layer in ENCODER.modules() if isinstance(layer, AttentionBlock)]
    seen: list[torch.Size] = []
    hooks = [block.attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape)) for block in blocks]
    try:
        ENCODER.in_pieces(video)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(seen) >= len(blocks) > 0
    for shape in seen:
        frames, rows = shape[2:4]
        assert frames in (6 * latent_frames - 5, 3 * latent_frames - 2, latent_frames)  # all of the video's
        assert rows == 1 or 3 * shape.numel() <= most  # queries, keys and values


@torch.inference_mode()
def test_work_can_be_stopped():
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ENCODER.in_pieces(torch.zeros(1, 3, 31, 16, 24), report=stop)
