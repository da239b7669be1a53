"""A network with a LoRA, something to learn, and the gradients."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mochi.config import DiTConfig
from mochi.dit import AsymmDiT, BlockRunner
from mochi.train.lora import LoraLinear, add_lora
from mochi.train.recompute import call_for
from mochi.train.settings import Rank, Recompute
from tests.exact import relative_error

Gradients = Mapping[str, Tensor]
"""By the published names of the layers, and lora_A or lora_B."""

Layers = Mapping[str, LoraLinear]


class Clips(NamedTuple):
    """A batch: noisy latents, their noise levels, what is to be predicted of them, and their prompts."""

    z: Tensor
    sigma: Tensor
    target: Tensor
    features: Tensor
    mask: Tensor

    def rows(self, which: slice) -> "Clips":
        return Clips(*(t[which] for t in self))


def clips(config: DiTConfig, lengths: Sequence[int], size: Sequence[int] = (3, 8, 10), levels: bool = False) -> Clips:
    """Random ones, whose prompts have so many tokens. A prompt without any is a caption that is left out.

    levels: whether each latent frame has a noise level of its own.
    """
    generator = torch.Generator().manual_seed(1)
    batch, text = len(lengths), config.text_length
    z, target = torch.randn(2, batch, 12, *size, generator=generator)
    sigma = torch.rand((batch, size[0]) if levels else (batch,), generator=generator)
    features = torch.randn(batch, text, config.text_width, generator=generator)
    mask = torch.arange(text) < torch.tensor(lengths)[:, None]
    return Clips(z, sigma, target, features * mask.unsqueeze(-1), mask)


def with_lora(model: AsymmDiT, mlp: bool = True, dropout: float = 0.0) -> Layers:
    """A LoRA that changes something."""
    layers = add_lora(model, Rank(4, 8.0), Rank(4 if mlp else 0, 8.0), dropout)
    for seed, layer in enumerate(layers.values()):
        nn.init.normal_(layer.lora_B, std=0.1, generator=torch.Generator().manual_seed(seed))
    return layers


def loss(model: AsymmDiT, batch: Clips, recompute: Recompute = "nothing") -> Tensor:
    text = model.encode_text(batch.features, batch.mask)
    out = model(batch.z, batch.sigma, text, runner=BlockRunner(call_for(recompute)))
    return (out - batch.target).square().mean()


def learn(model: AsymmDiT, layers: Layers, batch: Clips, recompute: Recompute = "nothing") -> Gradients:
    """The gradients of the LoRA, of this batch alone."""
    model.zero_grad()
    loss(model, batch, recompute).backward()
    return gradients(layers)


def gradients(layers: Layers) -> Gradients:
    return {f"{name}.{factor}": getattr(layer, factor).grad for name, layer in layers.items() for factor in FACTORS}


FACTORS = ("lora_A", "lora_B")


def assert_alike(found: Gradients, right: Gradients, within: float = 1e-5) -> None:
    """Each is as near as that to the right one, as a share of its length; zero where that is, as without any text."""
    assert found.keys() == right.keys() and any(gradient.any() for gradient in right.values())
    for name, gradient in right.items():
        error = relative_error(found[name], gradient) if gradient.any() else float(found[name].any())
        assert error <= within, f"{name}: the relative error is {error:.2e}"
