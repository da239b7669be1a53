"""Fixtures of the tests on a pretended CUDA device; they run by themselves, see ../test_inside.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.cuda.pretend import PretendCuda


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def cuda() -> Iterator[PretendCuda]:
    """A device with values, in inference mode, as all that runs on one."""
    with torch.inference_mode(), PretendCuda() as device:
        yield device


@pytest.fixture
def shapes() -> Iterator[PretendCuda]:
    """A device without values, for the published sizes."""
    with torch.inference_mode(), PretendCuda(values=False) as device:
        yield device
