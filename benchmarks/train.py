"""A training step of a LoRA against diffusers with peft: `python -m benchmarks.train [float32|bfloat16] [--json]`.

4 blocks of 768 with 6 heads, random weights, one clip of 1,500 visual tokens and a prompt of 40 tokens, on a CPU. The
step is forward, backward and AdamW, with the blocks recomputed in the backward pass; the LoRA, of rank 16 and in
float32, is on the layers of attention. Theirs gets the prompt as its pipeline gives it, padded to 256 tokens with a
mask. In bfloat16 theirs runs under autocast, as its training scripts do. What is compared are the gradients of the
first step.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.compare import Contenders, main
from mochi.config import DiTConfig
from mochi.dit import AsymmDiT, BlockRunner
from mochi.train.lora import LoraLinear, add_lora
from mochi.train.recompute import call_for
from mochi.train.settings import Rank, Recompute
from tests.peers.diffusers import diffusers_dit
from tests.peers.peft import add_peft_lora, gradients
from tests.random_weights import randomised

CONFIG = DiTConfig(depth=4, num_heads=6, hidden_x=768, hidden_y=384, mlp_x=2048, mlp_y=1024, text_width=256)
LATENTS, PROMPT, RANK = (1, 12, 10, 20, 30), 40, Rank(16, 16.0)


def steps(dtype: torch.dtype) -> Contenders:
    def clip() -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        z, target = torch.randn((2, *LATENTS), generator=generator).to(dtype)
        features = torch.randn(1, CONFIG.text_length, CONFIG.text_width, generator=generator).to(dtype)
        return z, target, torch.tensor([0.5]), features, torch.arange(CONFIG.text_length)[None] < PROMPT

    def ours(recompute: Recompute):
        z, target, sigma, features, mask = clip()
        network, layers = model(dtype)
        rotary, runner = network.rotary(*LATENTS[2:]), BlockRunner(call_for(recompute))

        def loss() -> Tensor:
            with torch.no_grad():
                text = network.encode_text(features, mask)
            return (network(z, sigma, text, rotary, runner).float() - target.float()).square().mean()

        return step(loss, network, lambda: (p.grad for layer in layers.values() for p in (layer.lora_A, layer.lora_B)))

    def diffusers():
        z, target, sigma, features, mask = clip()
        theirs, (_, layers) = diffusers_dit(randomised(AsymmDiT(CONFIG))).to(dtype), model(dtype)
        add_peft_lora(theirs, layers)
        for p in theirs.parameters():
            p.data = p.data.float() if p.requires_grad else p.data
        theirs.enable_gradient_checkpointing()
        theirs.train()

        def loss() -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                out = theirs(z, features, 1000 * (1 - sigma), mask, return_dict=False)[0]
            return (out.float() - target.float()).square().mean()

        return step(loss, theirs, lambda: gradients(theirs, layers).values())

    return {
        "ours": partial(outside_inference, partial(ours, "all but attention")),
        "ours, attention too recomputed": partial(outside_inference, partial(ours, "blocks")),
        "diffusers with peft": partial(outside_inference, diffusers),
    }


def model(dtype: torch.dtype) -> tuple[AsymmDiT, dict[str, LoraLinear]]:
    """Frozen, with a LoRA that changes something."""
    network = randomised(AsymmDiT(CONFIG))
    frequencies = network.pos_frequencies.data
    network.to(dtype).pos_frequencies.data = frequencies
    layers = add_lora(network, RANK, Rank(0, 1.0))
    for seed, layer in enumerate(layers.values()):
        nn.init.normal_(layer.lora_B, std=0.1, generator=torch.Generator().manual_seed(seed))
    return network, layers


def step(
    loss: Callable[[], Tensor], network: nn.Module, learnt: Callable[[], Iterable[Tensor]]
) -> Callable[[], Tensor]:
    """A step of training, that gives its gradients."""
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=2e-4)

    def run() -> Tensor:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        return torch.cat([gradient.flatten() for gradient in learnt()])

    return run


def outside_inference(set_up: Callable[[], Callable[[], Tensor]]) -> Callable[[], Tensor]:
    """Both outside of the mode without gradients, in which contenders are compared."""
    with torch.inference_mode(False), torch.enable_grad():
        run = set_up()

    def learning() -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            return run()

    return learning


if __name__ == "__main__":
    main("benchmarks.train", {"float32": partial(steps, torch.float32), "bfloat16": partial(steps, torch.bfloat16)})
