"""One rank's share of a step at the published size, in a process group that only pretends to send."""

import math

import pytest
import torch

from benchmarks.fake_group import fake_group
from mochi.config import DiTConfig
from mochi.dit import AsymmDiT, TextContext
from mochi.parallel.split import Split
from mochi.parallel.spmd.dit import ParallelDiT, Pass
from mochi.parallel.spmd.mesh import Meshes

LATENTS = (28, 60, 106)
TOKENS = 28 * 30 * 53
TEXT = 256
CONFIG = DiTConfig(depth=3)


@pytest.fixture(params=[Split(1, 4), Split(2, 2), Split(1, 8), Split(2, 4)], ids=str)
def split(request):
    with fake_group(request.param.ranks, rank=request.param.ranks - 1):
        yield request.param


def bytes_sent(split: Split) -> int:
    """What the last rank sends for one pass for each side of guidance, in bfloat16."""
    p = split.ulysses_degree
    width, pixels = CONFIG.hidden_x, CONFIG.patch_size**2 * CONFIG.channels
    own = TOKENS // p  # the last ranks have none of those left over
    heads = width // p
    qkv = 3 * own * heads * (p - 1)
    attended = (TOKENS - own) * heads
    text = TEXT * heads * (p - 1)  # not of the last block
    gathered = -(-TOKENS // p) * pixels * (p - 1)
    one = CONFIG.depth * (qkv + attended) + (CONFIG.depth - 1) * text + gathered
    flow = CONFIG.channels * math.prod(LATENTS)
    return 2 * (one * 2 // split.cfg_degree + (split.cfg_degree - 1) * flow)


def test_a_rank_sends_what_the_formula_says(shapes, split):
    dit = ParallelDiT(AsymmDiT(CONFIG, dtype=torch.bfloat16, device="cuda"), Meshes("cuda"))
    z, sigma = torch.empty(1, 12, *LATENTS, device="cuda"), torch.empty(1, device="cuda")
    caption, tokens = torch.empty(1, 3072, device="cuda"), torch.empty(1, TEXT, 1536, device="cuda")
    passes = [Pass(z, sigma, TextContext(caption.bfloat16(), tokens.bfloat16(), (TEXT,)))] * 2
    shapes.ledger.take()
    flows = dit.predict(passes, split)
    assert [(flow.shape, flow.dtype, flow.device.type) for flow in flows] == [(z.shape, torch.float32, "cuda")] * 2
    assert dit.bytes_sent == bytes_sent(split)
    assert not shapes.ledger.stops, shapes.ledger
    assert all(one.contiguous and one.devices == {"cuda"} for one in shapes.ledger.collectives)
