"""Attention and torch.compile over ranks: the same results, and refusals before anything starts."""

from collections.abc import Iterator

import pytest
import torch

from mochi.config import TINY_WEIGHTS
from mochi.errors import MochiError
from mochi.parallel.owner.client import finish
from mochi.parallel.owner.manager import GroupManager
from tests.exact import relative_error
from tests.parallel.dit_cases import NETWORK
from tests.parallel.dit_groups import weight_file
from tests.parallel.helpers import float32_dit

checkpoint = weight_file()


@pytest.fixture(scope="module")
def manager() -> Iterator[GroupManager]:
    manager = GroupManager(["cpu"] * 2, timeout=240.0, threads=1)
    yield manager
    manager.close()


@torch.inference_mode()
@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicated", "sharded"])
@pytest.mark.parametrize("degrees", [(1, 2), (2, 1)])
def test_compiled_blocks_give_the_same(manager, checkpoint, sharding, degrees):
    dit = float32_dit(manager, checkpoint, sharding, compiled=True)
    dit.degrees = degrees
    for size in ((2, 4, 6), (3, 8, 4)):
        z, sigma = torch.randn(2, 12, *size), torch.tensor([0.3, 0.6])
        features, mask = torch.randn(2, 256, 64), torch.arange(256) < torch.tensor([[17], [30]])
        text = dit.text(features, mask)
        out = finish(dit.forward(z, sigma, [(text, 0), (text, 1)]))
        assert relative_error(out, NETWORK(z, sigma, NETWORK.encode_text(features, mask))) < 1e-5
    dit.unload()


def test_an_attention_that_cannot_be_used_is_refused_by_the_ranks(manager):
    dit = float32_dit(manager, TINY_WEIGHTS / "dit.safetensors", attention="flash2")
    with pytest.raises(MochiError, match="choose sdpa"):
        finish(dit.load())
    assert manager.group is not None  # and stay for the next request
