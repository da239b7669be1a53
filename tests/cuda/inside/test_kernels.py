"""Every kernel has its place: what has a formula is launched as one operator somewhere on CUDA."""

import pytest
import torch

from benchmarks.fake_group import fake_group
from mochi.checkpoint import load_dit
from mochi.config import DecoderConfig
from mochi.dit import TextContext
from mochi.parallel.split import Split
from mochi.parallel.spmd.dit import ParallelDiT, Pass
from mochi.parallel.spmd.mesh import Meshes
from mochi.parallel.spmd.vae import StripRanks, decode_strips
from mochi.quant import use_float8_products
from mochi.vae import Decoder
from tests.checkpoint import toys
from tests.checkpoint.writers import FLOAT8S, GGUFS

KERNELS = "mochi_kernels::"
FILES = {
    "float8 by rows": FLOAT8S["cast e4m3"],
    "float8 by input scale": FLOAT8S["old scaled, input scale"],
    "scaled float8": FLOAT8S["old scaled"],
    "GGUF": GGUFS["GGUF Q4_0"],
}


@pytest.fixture
def two_ranks():
    with fake_group(2, rank=0):
        yield


def prompt() -> TextContext:
    caption, tokens = torch.randn(1, toys.DIT.hidden_x), torch.randn(1, 9, toys.DIT.hidden_y)
    return TextContext(caption.bfloat16().cuda(), tokens.bfloat16().cuda(), (9,))


def test_every_kernel_is_launched(shapes, two_ranks, tmp_path):
    state = toys.dit().state_dict()
    text = prompt()
    for name, write in FILES.items():
        for fast in {False, "float8" in name}:
            network = load_dit(write(tmp_path, state), device="cuda", compute=torch.bfloat16)
            if fast:
                use_float8_products(network)
            dit = ParallelDiT(network, Meshes("cuda"))
            one = Pass(torch.empty(1, 12, 2, 4, 6, device="cuda"), torch.empty(1, device="cuda"), text)
            for split in (Split(1, 2), Split(2, 1)):
                dit.predict([one], split)
    decoder = Decoder(DecoderConfig(base=8, multipliers=(1, 2, 2, 3), groups=4), dtype=torch.bfloat16, device="cuda")
    list(decode_strips(decoder, torch.empty(1, 12, 2, 4, 6, device="cuda"), StripRanks()))

    launched = {launch.name for launch in shapes.ledger.launches}
    assert declared() <= launched, declared() - launched


def test_no_kernel_gives_way_to_its_formula(cuda, caplog):
    """One that cannot be built does so, with a warning, and takes all others along."""
    network = toys.dit().requires_grad_(False).bfloat16().cuda()
    network(torch.randn(1, 12, 2, 4, 6).bfloat16().cuda(), torch.rand(1).cuda(), prompt())
    assert not caplog.records
    assert declared() & {launch.name for launch in cuda.ledger.launches}


def declared() -> set[str]:
    """Names of all kernels."""
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix(KERNELS) for name in names if name.startswith(KERNELS)}
