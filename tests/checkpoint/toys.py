"""Networks of test size with random weights, and something to compute with them."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mochi.config import DecoderConfig, DiTConfig, EncoderConfig
from mochi.dit import AsymmDiT
from mochi.vae import Decoder, Encoder
from tests.random_weights import randomised

Weights = dict[str, Tensor]

# Rows of multiples of 32, in which most formats have blocks.
DIT = DiTConfig(depth=2, num_heads=2, hidden_x=64, hidden_y=32, mlp_x=96, mlp_y=64, text_width=64, text_length=16)
# Rows of 256, in which the others have them; those of the text stream are too short, and stay plain.
WIDE = DiTConfig(depth=2, num_heads=8, hidden_x=256, hidden_y=32, mlp_x=256, mlp_y=64, text_width=256, text_length=16)
# diffusers has 32 groups, heads of 32 channels, and MLPs of 8/3 of the width.
DIFFUSERS_DIT = DiTConfig(depth=2, num_heads=2, hidden_x=96, hidden_y=48, mlp_x=256, mlp_y=128, text_width=64)
DECODER = DecoderConfig(base=32, multipliers=(1, 2, 2, 3), res_blocks=(1, 1, 1, 1, 1))
ENCODER = EncoderConfig(base=32, multipliers=(1, 2, 2, 3), res_blocks=(1, 1, 1, 1, 1))

PARTS: dict[str, tuple[type[nn.Module], object]] = {"decoder": (Decoder, DECODER), "encoder": (Encoder, ENCODER)}


def dit(config: DiTConfig = DIT, seed: int = 0) -> AsymmDiT:
    return randomised(AsymmDiT(config), seed)


def vae() -> dict[str, nn.Module]:
    return {part: randomised(network(config), 1) for part, (network, config) in PARTS.items()}


def rounded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network with weights that `dtype` has exactly, so that storing them in it loses nothing."""
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(p.to(dtype))
    return network


def with_weights(config: DiTConfig, weights: Weights) -> AsymmDiT:
    """The network in float32 with just these weights."""
    network = AsymmDiT(config)
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return network.eval()


@torch.inference_mode()
def output(
    network: AsymmDiT,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    sigma: Sequence[float] | Sequence[Sequence[float]] = (0.3, 0.9),
) -> Tensor:
    """What it predicts for fixed random latents of 2 frames and 2 prompts, computed in `dtype` on `device`."""
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(2, network.config.channels, 2, 4, 6, generator=generator).to(dtype)
    features = torch.randn(2, 16, network.config.text_width, generator=generator).to(dtype)
    mask = torch.arange(16) < torch.tensor([[16], [5]])
    text = network.encode_text(features.to(device), mask.to(device))
    return network(z.to(device), torch.tensor(sigma, device=device), text).cpu()


def save(path: Path, weights: Weights, **metadata: object) -> Path:
    """A safetensors file; metadata is stored as JSON where it is no text."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, path, texts or None)
    return path
