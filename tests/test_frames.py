"""Values of frames: bytes made on a device are those that the video writer made of floats on the CPU."""

import numpy as np
import pytest
import torch

from mochi.frames import to_bytes, to_pictures
from mochi.video.writer import to_uint8

TIES = (torch.arange(255, dtype=torch.float64) + 0.5) / 255


def every_value() -> torch.Tensor:
    """All bfloat16 and float16 numbers but NaN, and float32 ones on both sides of where rounding changes."""
    bits = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
    half = torch.cat((bits.view(torch.bfloat16).float(), bits.view(torch.float16).float()))
    close = TIES.float()[:, None] + torch.arange(-8, 9) * 2.0**-27
    exact = torch.tensor([0.5 / 255, 1 / 255, 254.5 / 255, 0.0, -0.0, 1.0, -1.0])
    values = torch.cat((half, close.flatten(), close.flatten() * 2 - 1, exact))
    return values[~values.isnan()]


def by_hand(pictures: torch.Tensor) -> np.ndarray:
    """Rounded half to even, by NumPy, in float32."""
    return np.rint(np.clip(pictures.float().numpy(), 0, 1) * np.float32(255)).astype(np.uint8)


def test_bytes_are_those_of_the_writer():
    values = every_value()
    values = values[: len(values) // 3 * 3].view(-1, 1, 3)
    assert np.array_equal(to_bytes(values).numpy(), by_hand(values))
    assert np.array_equal(to_uint8(values), by_hand(values))
    assert len(to_bytes(values).unique()) == 256


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bytes_of_the_vaes_range_are_those_of_its_pictures(dtype):
    frames = every_value().to(dtype)
    pictures = to_pictures(frames)
    assert pictures.dtype == torch.float32
    assert torch.equal(to_pictures(frames, as_bytes=True), torch.from_numpy(by_hand(pictures)))
    assert torch.equal(pictures, ((frames.float() + 1) / 2).clamp(0, 1))


def test_ties_go_to_the_even_level():
    halves = torch.arange(255) + 0.5
    pictures = halves / 255
    exact = pictures * 255 == halves
    assert exact.sum() > 100
    assert torch.equal(to_bytes(pictures)[exact], halves[exact].round().to(torch.uint8))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_rounds_alike(dtype):
    frames = every_value().to(dtype)
    assert torch.equal(to_pictures(frames.cuda(), as_bytes=True).cpu(), to_pictures(frames, as_bytes=True))
