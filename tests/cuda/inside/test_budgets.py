"""What the published model asks of a device at the published size, counted without computing it.

N = 44,520 visual and 256 text tokens for a block; 28 x 60 x 106 latents for the decoder; bfloat16. A block
has 20 launches and 6.9 GB of elementwise work, a strip of four 3,363 launches: the bounds leave a few per cent.
"""

import pytest
import torch

from benchmarks.fake_group import fake_group
from mochi.config import PREVIEW, DiTConfig
from mochi.dit import AsymmDiT
from mochi.parallel.spmd.vae import StripRanks, decode_strips, plan_strips
from mochi.vae import Decoder

LATENTS = (28, 60, 106)
TOKENS, TEXT = 44_520, 256

BLOCK_LAUNCHES = 21
BLOCK_BYTES = 7.1e9
STRIP_LAUNCHES = 3_500


@pytest.fixture
def four_ranks():
    with fake_group(4):
        yield


def test_block(shapes):
    """Launches of all kinds; bytes of all but products, convolutions and attention, each tensor read, written once."""
    model = AsymmDiT(DiTConfig(depth=2), dtype=torch.bfloat16, device="cuda")
    rotary = model.rotary(*LATENTS)
    sizes = ((TOKENS, 3072), (TEXT, 1536), (3072,))
    x, y, c = (torch.empty(1, *size, dtype=torch.bfloat16, device="cuda") for size in sizes)
    shapes.ledger.take()
    out_x, out_y = model.blocks[0](x, y, c, rotary, (TEXT,))
    assert (out_x.shape, out_y.shape) == (x.shape, y.shape)
    print(shapes.ledger)
    launches, bytes_ = len(shapes.ledger.launches), shapes.ledger.elementwise_bytes
    assert not shapes.ledger.stops
    assert launches <= BLOCK_LAUNCHES
    assert bytes_ <= BLOCK_BYTES


def test_strip_of_four(shapes, four_ranks):
    decoder = Decoder(PREVIEW.decoder, dtype=torch.bfloat16, device="cuda")
    z = torch.empty(1, 12, *LATENTS, dtype=torch.bfloat16, device="cuda")
    shapes.ledger.take()
    strips = list(decode_strips(decoder, z, StripRanks(), plan_strips(*LATENTS[1:], 4).chunk))
    assert torch.cat(strips, dim=2).shape == (1, 3, 163, 120, 848)
    print(shapes.ledger)
    launches, stops = len(shapes.ledger.launches), shapes.ledger.stops
    assert not stops
    assert launches <= STRIP_LAUNCHES
    assert all(one.contiguous and one.devices == {"cuda"} for one in shapes.ledger.collectives)
