"""A forward pass of the denoiser against diffusers: `python -m benchmarks.dit [float32|bfloat16] [--json]`.

6 blocks of 768 with 6 heads, random weights, one sample of 1,500 visual tokens and a prompt of 37 tokens, on a CPU. The
prompt is encoded in each pass, as diffusers does it; our sampler does so once a run.
"""

from functools import partial

import torch
from torch import nn

from benchmarks.compare import Contenders, main
from mochi.config import DiTConfig
from mochi.dit import AsymmDiT
from tests.peers.diffusers import diffusers_dit
from tests.random_weights import randomised

CONFIG = DiTConfig(depth=6, num_heads=6, hidden_x=768, hidden_y=384, mlp_x=2048, mlp_y=1024, text_width=256)
LATENTS, PROMPT = (1, 12, 10, 20, 30), 37


def passes(dtype: torch.dtype) -> Contenders:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(LATENTS, generator=generator).to(dtype)
    features = torch.randn(1, CONFIG.text_length, CONFIG.text_width, generator=generator).to(dtype)
    mask, sigma = torch.arange(CONFIG.text_length)[None] < PROMPT, torch.tensor([0.5])

    def ours(compiled: bool = False):
        network = randomised(AsymmDiT(CONFIG)).to(dtype)
        network.pos_frequencies.data = network.pos_frequencies.data.float()
        if compiled:
            compile_blocks(network.blocks)
        rotary = network.rotary(*LATENTS[2:])
        return lambda: network(z, sigma, network.encode_text(features, mask), rotary)

    def diffusers(compiled: bool = False):
        theirs = diffusers_dit(randomised(AsymmDiT(CONFIG))).to(dtype)
        if compiled:
            compile_blocks(theirs.transformer_blocks)
        return lambda: theirs(z, features, 1000 * (1 - sigma), mask, return_dict=False)[0]

    return {
        "ours": ours,
        "ours, compiled": partial(ours, compiled=True),
        "diffusers": diffusers,
        "diffusers, compiled": partial(diffusers, compiled=True),
    }


def compile_blocks(blocks: nn.ModuleList) -> None:
    """Each block by itself, the fastest way for both to compile; the code is shared."""
    for block in blocks:
        block.compile(dynamic=True)


if __name__ == "__main__":
    main("benchmarks.dit", {"float32": partial(passes, torch.float32), "bfloat16": partial(passes, torch.bfloat16)})
