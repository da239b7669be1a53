"""What of a clip is made anew."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.errors import MochiError
from mochi.geometry import frame_count
from mochi.sampling.masks import extended, latent_mask

SIZES = {"t": st.integers(1, 4), "h": st.integers(1, 3), "w": st.integers(1, 3)}


@given(**SIZES, data=st.data())
def test_a_latent_is_made_anew_if_any_of_its_pixels_is(t, h, w, data):
    frames = frame_count(t)
    frame = data.draw(st.integers(0, frames - 1))
    row, column = data.draw(st.integers(0, 8 * h - 1)), data.draw(st.integers(0, 8 * w - 1))
    mask = torch.zeros(frames, 8 * h, 8 * w)
    mask[frame, row, column] = 0.75
    expected = torch.zeros(1, 1, t, h, w)
    expected[0, 0, (frame + 5) // 6, row // 8, column // 8] = 0.75
    assert torch.equal(latent_mask(mask, torch.empty(2, 12, t, h, w)), expected)


@given(**SIZES)
def test_one_picture_is_for_all_frames(t, h, w):
    mask = torch.rand(1, 8 * h, 8 * w, generator=torch.Generator().manual_seed(t))
    latents = torch.empty(1, 12, t, h, w)
    assert torch.equal(latent_mask(mask, latents), latent_mask(mask.repeat(frame_count(t), 1, 1), latents))


def test_a_mask_of_another_size_is_stretched():
    mask = torch.zeros(1, 30, 20)
    mask[:, :15] = 1
    made = latent_mask(mask, torch.empty(1, 12, 2, 6, 4))
    assert (made[..., :3, :] == 1).all() and not made[..., 3:, :].any()


@given(height=st.integers(1, 70), width=st.integers(1, 70), h=st.integers(1, 6), w=st.integers(1, 6), data=st.data())
def test_no_pixel_of_a_mask_of_another_size_is_lost(height, width, h, w, data):
    mask = torch.zeros(1, height, width)
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask[:, row, column] = 1
    made = latent_mask(mask, torch.empty(1, 12, 1, h, w))[0, 0, 0]
    assert made[row * h // height, column * w // width] == 1
    # Of a large mask a pixel is in two latents at most each way, where sizes do not divide.
    assert made.sum() <= max(2, -(-h // height) + 1) * max(2, -(-w // width) + 1)


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(MochiError, match=r"2 pictures.*1, or as many as the clip: 7"):
        latent_mask(torch.zeros(2, 8, 8), torch.empty(1, 12, 2, 1, 1))


@given(t=st.integers(1, 3), more=st.integers(1, 3), batch=st.integers(1, 2))
def test_what_is_behind_the_clip_is_made(t, more, batch):
    clip = torch.randn(batch, 12, t, 2, 4)
    longer, mask = extended(clip, frame_count(t + more))
    assert longer.shape == (batch, 12, t + more, 2, 4) and mask.shape == (1, 1, t + more, 2, 4)
    assert torch.equal(longer[:, :, :t], clip) and not longer[:, :, t:].any()
    assert not mask[:, :, :t].any() and (mask[:, :, t:] == 1).all()


@pytest.mark.parametrize("channels", [1, 12])
def test_a_mask_of_the_clip_stays(channels):
    clip, own = torch.randn(2, 12, 2, 2, 4), torch.rand(2, channels, 2, 2, 4)
    _, mask = extended(clip, 19, own)
    assert torch.equal(mask[:, :, :2], own) and (mask[:, :, 2:] == 1).all() and mask.shape == (2, channels, 4, 2, 4)


@pytest.mark.parametrize(("frames", "message"), [(7, "has 7 already"), (1, "has 7 already"), (12, r"6k \+ 1")])
def test_lengths_that_cannot_be_are_refused(frames, message):
    with pytest.raises(MochiError, match=message):
        extended(torch.zeros(1, 12, 2, 2, 2), frames)
