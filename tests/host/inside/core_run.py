"""Runs of the core alone, without ComfyUI, to compare with. Loaded through `pack.module`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ....mochi.config import PREVIEW
from ....mochi.dit import AsymmDiT, BlockRunner
from ....mochi.dit.runner import call_block, without
from ....mochi.sampling import Given, SkipLayers, guided, sample
from ....mochi.vae import to_dit, to_vae

Flow = Callable[[Tensor, Tensor, int], Tensor]


def noise_like(latents: Tensor, seed: int) -> Tensor:
    """What samplers of ComfyUI draw."""
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))


def flow_of(network: AsymmDiT, prompts: Sequence[list], cfg: Sequence[float], skip: SkipLayers | None = None) -> Flow:
    """Guidance between two conditionings of one part each, three passes of the network with skip-layer guidance."""
    texts = [network.encode_text(features, extra["attention_mask"].bool()) for ((features, extra),) in prompts]
    skipped = [network.blocks[i] for i in skip.layers] if skip else []
    runner = BlockRunner(without(call_block, skipped))

    def passes(text: int, how: BlockRunner) -> Callable[[Tensor, Tensor], Tensor]:
        def one(z: Tensor, sigma: Tensor) -> Tensor:
            videos = [network(z[i : i + 1], sigma[i : i + 1], texts[text], None, how) for i in range(len(z))]
            return torch.cat(videos)

        return one

    plain = BlockRunner(call_block)
    return guided(passes(0, plain), passes(1, plain), cfg, passes(0, runner), skip)


@torch.inference_mode()
def core_run(
    network: AsymmDiT,
    prompts: Sequence[list],
    samples: Tensor,
    sigmas: Sequence[float],
    cfg: float | Sequence[float],
    levels: Sequence[float] | None = None,
    skip: SkipLayers | None = None,
    seed: int = 3,
    raw: bool = False,
) -> Tensor:
    """The core's Euler loop: VAE latents of the start (B, 12, T, h, w) -> those of the result.

    levels: the noise multiplier of each frame. raw: given frames enter without statistics.
    """
    scales = [cfg] * (len(sigmas) - 1) if isinstance(cfg, (int, float)) else cfg
    start = samples if raw else to_dit(samples, PREVIEW.latents)
    given = Given(start, tuple(levels)) if levels else None
    noise = noise_like(samples, seed)
    return to_vae(sample(flow_of(network, prompts, scales, skip), noise, sigmas, given=given), PREVIEW.latents)


@torch.inference_mode()
def solved(
    solver: Callable[..., Tensor],
    network: AsymmDiT,
    prompts: Sequence[list],
    samples: Tensor,
    sigmas: Sequence[float],
    cfg: float,
    levels: Sequence[float],
    area: Tensor | None = None,
    seed: int = 3,
) -> Tensor:
    """A solver of ComfyUI's k-diffusion on the core's network, with frames at levels of their own.

    area: (1, 1, T, h, w), 0 where the clip stays as it is.
    """
    flow = flow_of(network, prompts, [cfg])
    start, noise = to_dit(samples, PREVIEW.latents), noise_like(samples, seed)
    given = Given(start, tuple(levels))
    each = torch.tensor(given.multipliers)[:, None, None]
    made = torch.ones_like(each) if area is None else area

    def estimate(x: Tensor, sigma: Tensor, **_: object) -> Tensor:
        level = sigma.view(-1, 1) * torch.tensor(given.multipliers)
        x = made * x + (1 - made) * given.noised(noise, sigma[0].item())
        return made * (x + sigma[0] * each * flow(x, level, 0)) + (1 - made) * start

    z = given.noised(noise, sigmas[0])
    return to_vae(solver(estimate, z, torch.tensor(sigmas), disable=True), PREVIEW.latents)
