"""Devices for the tests of this folder, which run by themselves, see ../test_inside.py."""

import os
from collections.abc import Iterator

import pytest
import torch

from tests.cuda.pretend import PretendCuda
from tests.cuda.real import AgainstFormulas

REAL = os.environ.get("MOCHI_TEST_CUDA") == "real"


@pytest.fixture(autouse=True, scope="session")
def _as_exact_as_the_cpu() -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture
def cuda() -> Iterator[PretendCuda | AgainstFormulas]:
    """A device with values, in inference mode, as all that runs on one."""
    with torch.inference_mode(), AgainstFormulas() if REAL else PretendCuda() as device:
        yield device


@pytest.fixture
def shapes() -> Iterator[PretendCuda]:
    """A device without values, for the published sizes."""
    if REAL:
        pytest.skip("counts on a pretended device")
    with torch.inference_mode(), PretendCuda(values=False) as device:
        yield device
