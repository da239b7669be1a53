"""Looks at a LoRA while it is trained: the loss on clips that are held out, and sample clips."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import load_decoder
from ..device_memory import give_back, speaks_of_no_memory
from ..dit import TextContext
from ..geometry import latent_shape
from ..model_dir import ModelDir
from ..pipeline.local import LocalDecoder
from ..pipeline.pipeline import noise_from_seed
from ..sampling import Denoised, guided, sample
from ..settings import GenerateSettings
from ..vae import to_vae
from ..video import VideoWriter
from .data import Example
from .job import Looked, Samples, Watcher
from .network import Network
from .objective import fixed, padded

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels of the loss on held-out clips."""


@dataclass(frozen=True)
class Prompt:
    """Of a sample clip: its text, and T5's features of it (L, width), of real tokens alone."""

    text: str
    features: Tensor


def sample_settings(samples: Samples, model: ModelDir, size: tuple[int, int, int]) -> GenerateSettings:
    """Of the first sample clip. size: width, height and frames where none are chosen. Raises MochiError like those."""
    width, height, frames = size
    return GenerateSettings.of(
        model.config.defaults,
        prompt=samples.prompts[0] if samples.prompts else "",
        seed=samples.seed,
        steps=samples.steps,
        cfg=samples.cfg,
        width=samples.width or width,
        height=samples.height or height,
        frames=samples.frames or frames,
    )


class Looks:
    """Makes looks. All ranks call it alike; groups of ranks share the clips among them.

    Args:
        settings: of the first sample clip.
        folder: of the sample clips.
    """

    def __init__(
        self,
        network: Network,
        model: ModelDir,
        held_out: Sequence[Example],
        prompts: Sequence[Prompt],
        settings: GenerateSettings,
        folder: Path,
        watcher: Watcher,
    ):
        self._network, self._model, self._held_out, self._prompts = network, model, held_out, prompts
        self._settings, self._folder, self._watcher = settings, folder, watcher

    @property
    def wanted(self) -> bool:
        return bool(self._held_out or self._prompts)

    @torch.no_grad()
    def look(self, step: int) -> Looked:
        """The LoRA as the network has it now, after so many steps."""
        loss = self._loss() if self._held_out else None
        clips = self._clips(step) if self._prompts else {}
        return Looked(step, loss, tuple(clips), tuple(clips.values()))

    def _loss(self) -> float:
        """The mean over all held-out clips and LEVELS. Each group measures its share of the clips."""
        ranks, total, count = self._network.ranks, 0.0, 0
        for first in range(0, len(self._held_out), ranks.groups):
            # A group that is left without a clip repeats the last one, since ranks compute in lockstep.
            number = min(first + ranks.group, len(self._held_out) - 1)
            example = self._held_out[number]
            posterior, caption = example.posterior(), example.features()
            stats = self._model.config.latents
            losses = [self._network.loss(fixed(posterior, caption, stats, sigma, number)).item() for sigma in LEVELS]
            if first + ranks.group < len(self._held_out):
                total, count = total + sum(losses), count + len(losses)
        total, of_all = ranks.average([], total, count)
        return total / of_all

    def _clips(self, step: int) -> dict[Path, str]:
        """The files of the sample clips, each with its prompt; without those that a device has no memory for."""
        ranks = self._network.ranks
        videos = tuple(self._folder / f"step-{step:06d}-{n}.mp4" for n in range(1, 1 + len(self._prompts)))
        latents: list[Tensor] = []
        for first in range(0, len(videos), ranks.groups):
            number = min(first + ranks.group, len(videos) - 1)
            made = self._denoise(number, len(videos))
            if first + ranks.group < len(videos):
                latents.append(made)
        if self._network.leads:
            try:
                self._write(latents, [*videos[ranks.group :: ranks.groups]])
            except RuntimeError as error:
                if not speaks_of_no_memory(str(error)):
                    raise
                self._watcher.said(
                    "sample clips are left out: to decode them, the device has not enough memory beside "
                    "the model; choose a smaller size for them, or none"
                )
        ranks.barrier()
        prompts = zip(videos, self._prompts, strict=True)
        return {video: prompt.text for video, prompt in prompts if video.is_file()}

    def _denoise(self, number: int, total: int) -> Tensor:
        """DiT latents (1, 12, T, h, w) of a sample clip."""
        network, prompt, ranks = self._network, self._prompts[number], self._network.ranks
        settings = replace(self._settings, seed=self._settings.seed + number)
        texts = [network.text(*padded([features])) for features in (prompt.features, prompt.features[:0])]
        conditional, unconditional = (partial(_predicted, network, text) for text in texts)

        def on_step(denoised: Denoised) -> None:
            if ranks.is_first:
                self._watcher.preparing(f"sample clip {number + 1} of {total}", denoised.step, denoised.steps)

        noise = noise_from_seed(latent_shape(settings.width, settings.height, settings.frames), settings.seed)
        predict = guided(conditional, unconditional, settings.scales())
        return sample(
            predict, noise.to(ranks.device), settings.sigmas(), on_step, lambda: cancelled(network, self._watcher)
        )

    def _write(self, latents: Sequence[Tensor], videos: Sequence[Path]) -> None:
        device, dtype, settings = self._network.ranks.device, self._network.dtype, self._settings
        decoder = LocalDecoder(load_decoder(self._model.decoder, dtype, device), dtype)
        for z, path in zip(latents, videos, strict=True):
            with VideoWriter(path, settings.fps, (settings.width, settings.height)) as video:
                for frames in decoder.decode(to_vae(z, self._model.config.latents), as_bytes=True):
                    video.write(frames[0].permute(1, 2, 3, 0))
        del decoder
        give_back(device)


def _predicted(network: Network, text: TextContext, z: Tensor, sigma: Tensor) -> Tensor:
    return network.flow(z, sigma, text)


def cancelled(network: Network, watcher: Watcher) -> bool:
    """Whether the run is to end, on all ranks alike."""
    return network.ranks.any(watcher.cancelled())
