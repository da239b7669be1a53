"""Groups of ranks that denoise, and the weights they load."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from mochi.parallel.owner.group import Group
from tests.parallel.dit_cases import NETWORK

SERVICE = (str(Path(__file__).with_name("dit_service.py")), "Denoiser")


def groups_of(*ranks: int) -> Callable:
    """A fixture: a group of each of these numbers of ranks, one after the other."""

    @pytest.fixture(scope="module", params=ranks)
    def group(request) -> Iterator[Group]:
        group = Group(["cpu"] * request.param, service=SERVICE, threads=1, timeout=120)
        yield group
        group.close()

    return group


def weight_file() -> Callable:
    """A fixture: a file with the weights of NETWORK."""

    @pytest.fixture(scope="module")
    def checkpoint(tmp_path_factory) -> Path:
        path = tmp_path_factory.mktemp("weights") / "dit.safetensors"
        config = {"num_heads": NETWORK.config.num_heads, "caption_heads": NETWORK.config.caption_heads}
        save_file(NETWORK.state_dict(), path, {"config": json.dumps(config)})
        return path

    return checkpoint
