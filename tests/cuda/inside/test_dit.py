"""The denoiser on CUDA: the values of the CPU, and nothing that waits for the device."""

import copy

import pytest
import torch

from mochi.config import DiTConfig
from mochi.dit import AsymmDiT
from tests.exact import relative_error
from tests.random_weights import randomised

CONFIG = DiTConfig(depth=3, num_heads=4, hidden_x=64, hidden_y=32, mlp_x=96, mlp_y=64, text_width=64)
PROMPTS = [[9], [0], [1], [9, 9], [5, 0, 256]]


@pytest.fixture(scope="module")
def network() -> AsymmDiT:
    return randomised(AsymmDiT(CONFIG), 0).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", PROMPTS, ids=str)
def test_computes_what_the_cpu_does(network, cuda, lengths, dtype):
    network, batch = copy.deepcopy(network).to(dtype), len(lengths)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, 12, 2, 4, 6, generator=generator).to(dtype)
    features = torch.randn(batch, 256, CONFIG.text_width, generator=generator).to(dtype)
    mask = torch.arange(256) < torch.tensor(lengths)[:, None]
    sigma = torch.linspace(0.9, 0.2, batch)
    expected = network(z, sigma, network.encode_text(features, mask))

    network.cuda()
    text = network.encode_text(features.cuda(), mask.cuda())
    z, sigma = z.cuda(), sigma.cuda()
    cuda.ledger.take()
    out = network(z, sigma, text)
    assert not cuda.ledger.stops, cuda.ledger
    assert out.device.type == "cuda"
    assert relative_error(out.cpu().float(), expected.float()) <= (1e-5 if dtype == torch.float32 else 2e-2)
