"""Counts of work from the sizes, beside what the networks do when they run."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import flops
from benchmarks.memory import AlonePeers
from mochi.config import PREVIEW, TINY, DecoderConfig, DiTConfig
from mochi.dit import AsymmDiT, TextContext
from mochi.parallel.spmd.ulysses import TokenShards, UlyssesAttention
from mochi.vae import Decoder

SMALL = DiTConfig(depth=3, num_heads=4, hidden_x=64, hidden_y=48, mlp_x=128, mlp_y=96, text_width=32)
LATENTS = (3, 8, 12)
TEXT = 10
NOTHING = nullcontext()


def tokens(config: DiTConfig) -> int:
    frames, rows, columns = LATENTS
    return frames * rows * columns // config.patch_size**2


class OneOf(AlonePeers):
    """The first of some ranks, which counts the bytes that it sends."""

    sent = 0

    def all_to_all(self, t: Tensor, give: list[int], take: list[int], into: Tensor | None = None):
        self.sent += t[: sum(give) - give[0]].nbytes
        return super().all_to_all(t, give, take, into)

    def all_gather(self, t: Tensor):
        self.sent += t.nbytes * (self.size - 1)
        return super().all_gather(t)

    def gather_rows(self, t: Tensor, shares: list[int]) -> Tensor:
        self.sent += max(shares) * t[0].nbytes * (self.size - 1)
        return super().gather_rows(t, shares)


def run_on_one_of(ranks: int, config: DiTConfig, watch: Any = NOTHING, dtype: torch.dtype = torch.float32) -> OneOf:
    """A pass of one sample on the first of some ranks, with weights of no meaning, and `watch` around it."""
    model = AsymmDiT(config, dtype=dtype)
    peers = OneOf(ranks)
    shards = TokenShards(peers)
    rotary = model.rotary(*LATENTS)
    if ranks > 1:
        for block in model.blocks:
            block.attn.joint = UlyssesAttention(shards=shards, text_is_read=block.attn.proj_y is not None)
        rotary = rotary.tensor_split(ranks)[0].clone()
    text = torch.zeros(1, TEXT, config.hidden_y, dtype=dtype)
    context = TextContext(torch.zeros(1, config.hidden_x, dtype=dtype), text, (TEXT,))
    with torch.no_grad(), watch:
        model(torch.zeros(1, 12, *LATENTS, dtype=dtype), torch.ones(1), context, rotary, shards)
    return peers


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("config", [SMALL, replace(TINY.dit, depth=2)], ids=["small", "tiny"])
def test_flops_of_a_pass_are_those_of_the_network(config, ranks):
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH):
        run_on_one_of(ranks, config, counter)
    assert flops.dit_flops(config, tokens(config), TEXT, ranks).all == counter.get_total_flops()


def test_flops_of_the_published_model():
    """Figures of the published sizes: 1.67 PFLOP a pass, 24.6 TFLOP of attention a block."""
    pass_ = flops.dit_flops(PREVIEW.dit, 44_520, 256)
    assert pass_.all == pytest.approx(1.67e15, rel=0.005)
    assert pass_.attention / 48 == pytest.approx(24.6e12, rel=0.005)


@pytest.mark.parametrize("config", [TINY.decoder, DecoderConfig(base=8, groups=4)], ids=["tiny", "published blocks"])
def test_flops_of_the_decoder_are_those_of_the_network(config):
    decoder = Decoder(config, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(torch.empty(1, 12, 3, 4, 6, device="meta"))
    assert flops.decoder_flops(config, (3, 4, 6)) == counter.get_total_flops()


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_bytes_that_a_rank_sends(ranks, dtype):
    sent = run_on_one_of(ranks, SMALL, dtype=dtype).sent
    assert flops.sent(SMALL, tokens(SMALL), TEXT, ranks, dtype.itemsize).all == sent


def test_bytes_of_a_block_are_those_of_its_weights():
    block = AsymmDiT(replace(PREVIEW.dit, depth=2), dtype=torch.bfloat16, device="meta").blocks[0]
    assert flops.block_bytes(PREVIEW.dit) == sum(p.nbytes for p in block.parameters())


class Traffic(TorchDispatchMode):
    """Bytes of the inputs and outputs of all operations but products and views."""

    PRODUCTS = ("mm", "addmm", "bmm", "convolution", "scaled_dot_product")

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        is_product = any(name in str(operation) for name in self.PRODUCTS)
        is_allocation = "empty" in str(operation)
        if not (is_product or is_allocation or operation.is_view or "view" in str(operation)):
            read = args[1:] if operation is torch.ops.aten.copy_.default else args
            self.bytes += sum(t.nbytes for t in tree_leaves((read, kwargs, out)) if isinstance(t, Tensor))
        return out


@pytest.mark.parametrize("ranks", [1, 2])
def test_elementwise_bytes_of_a_block_are_those_of_its_operations(monkeypatch, ranks):
    """With norms in one operation, as on a GPU. Vectors of the modulation are not counted."""

    def in_one(x: Tensor, shape, weight=None, eps=None) -> Tensor:
        return x.clone()

    monkeypatch.setattr(F, "rms_norm", in_one)

    def measured(depth: int) -> int:
        traffic = Traffic()
        run_on_one_of(ranks, replace(SMALL, depth=depth), traffic, torch.bfloat16)
        return traffic.bytes

    # Of two more blocks, since the last one is another and the rest of the network has operations too.
    block = (measured(4) - measured(2)) / 2
    share = tokens(SMALL) // ranks
    assert block == pytest.approx(flops.elementwise(SMALL, share, TEXT, ranks).eager, rel=0.03)
