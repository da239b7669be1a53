"""Random weights for networks of any size."""

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def randomised(network: Network, seed: int = 0, bias: float = 0.3) -> Network:
    """Give a network random weights, in place: so large that each of them matters, so small that nothing saturates.

    Args:
        network: on any device.
        seed: the same seed gives the same weights.
        bias: the standard deviation of biases.
    """
    generators: dict[torch.device, torch.Generator] = {}
    for name, p in network.named_parameters():
        generator = generators.setdefault(p.device, torch.Generator(p.device).manual_seed(seed))
        values = torch.randn(p.shape, generator=generator, device=p.device)
        fan_in = p[0].numel() if p.ndim > 1 else 1
        is_norm = p.ndim == 1 and name.endswith("weight")
        p.copy_(1 + 0.1 * values if is_norm else values * (bias if fan_in == 1 else fan_in**-0.5))
    return network.requires_grad_(False).eval()
