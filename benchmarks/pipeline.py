"""Whole runs, from a prompt to latents or to a video: `python -m benchmarks.pipeline [latents|share|host] [--json]`.

latents: sampling against diffusers' own MochiPipeline, on the same weights, text features, noise, sigmas and guidance:
4 blocks of 768, 600 visual tokens, prompts of 37 and 12 tokens, 8 steps. T5 is left out: it is one class of the
transformers library for both. share: of the time of the tiny model's videos, what is not spent in products. host: the
same in a real ComfyUI.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import dit, host, share
from benchmarks.compare import Contenders, main
from mochi.config import PREVIEW, DiTConfig
from mochi.dit import AsymmDiT
from mochi.geometry import latent_shape
from mochi.pipeline import GenerateSettings, noise_from_seed
from mochi.pipeline.local import LocalDenoiser
from mochi.sampling import Watch
from tests.peers.diffusers import diffusers_dit
from tests.random_weights import randomised

CONFIG = replace(dit.CONFIG, depth=4)
SETTINGS = GenerateSettings.of(PREVIEW.defaults, prompt="", seed=1, steps=8, cfg=4.5, width=240, height=160, frames=19)
PROMPTS = (37, 12)
"""Tokens of the prompt and of the negative one."""


def latents() -> Contenders:
    return sampling(CONFIG, SETTINGS)


def sampling(config: DiTConfig, settings: GenerateSettings) -> Contenders:
    """Noise to latents (1, 12, T, h, w) in float32, with two prompts of random features."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, config.text_length, config.text_width, generator=generator)
    mask = torch.arange(config.text_length)[None] < torch.tensor(PROMPTS)[:, None]
    noise = noise_from_seed(latent_shape(settings.width, settings.height, settings.frames), settings.seed)

    def network() -> AsymmDiT:
        return randomised(AsymmDiT(config))

    def ours() -> Callable[[], Tensor]:
        denoiser = LocalDenoiser(network())
        return lambda: denoiser.sample(features, mask, noise, settings, Watch())

    def diffusers() -> Callable[[], Tensor]:
        from diffusers import FlowMatchEulerDiscreteScheduler, MochiPipeline

        # As in the published folder; its times run from 0, noise, to 1000.
        scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
        theirs = MochiPipeline(scheduler, None, None, None, diffusers_dit(network()))
        theirs.set_progress_bar_config(disable=True)

        def run() -> Tensor:
            return theirs(
                prompt_embeds=features[:1],
                prompt_attention_mask=mask[:1],
                negative_prompt_embeds=features[1:],
                negative_prompt_attention_mask=mask[1:],
                latents=noise,
                num_inference_steps=settings.steps,
                guidance_scale=settings.cfg,
                width=settings.width,
                height=settings.height,
                num_frames=settings.frames,
                output_type="latent",
                return_dict=False,
            )[0]

        return run

    return {"ours": ours, "diffusers": diffusers}


if __name__ == "__main__":
    main("benchmarks.pipeline", {"latents": latents}, {"share": share.measure, "host": host.measure})
