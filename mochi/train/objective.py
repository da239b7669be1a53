"""The objective: flow matching in the network's own latents.

Source: the published trainer, which draws latents of the encoder's Gaussian, noise, and a level for each clip. It feeds
the VAE's latents; here they are normalised, which is what the network makes videos of.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import LatentStats
from ..vae import to_dit
from ..vae.encoder import Posterior
from .order import generator_of
from .settings import TrainSettings

LOGVAR = (-30.0, 20.0)
"""What log-variances are cut to, as the published Gaussian does."""


@dataclass(frozen=True)
class Batch:
    """Clips on their way through the network. B clips, T latent frames, L text tokens.

    Attributes:
        latents, noise: `z_0` and `eps`, (B, 12, T, h, w) float32.
        sigma: noise levels (B,), float32.
        features, mask: of the captions, (B, L, width) and (B, L); nothing of those that are dropped.
        kept: which clips have another prompt, for which the frozen model is the teacher, (B,).
    """

    latents: Tensor
    noise: Tensor
    sigma: Tensor
    features: Tensor
    mask: Tensor
    kept: Tensor

    @property
    def noisy(self) -> Tensor:
        """What the network sees: `(1 - sigma) z_0 + sigma eps`."""
        sigma = self.sigma[:, None, None, None, None]
        return (1 - sigma) * self.latents + sigma * self.noise

    def loss(self, flow: Tensor, teacher: Tensor | None = None) -> Tensor:
        """Mean squared error of what the network predicts, `z_0 - eps`, for each clip: (B,).

        teacher: what the frozen model predicts, which takes that place for `kept` clips.
        """
        target = self.latents - self.noise
        if teacher is not None:
            target = torch.where(self.kept[:, None, None, None, None], teacher, target)
        return (flow.float() - target).square().flatten(1).mean(1)

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: t.to(device) for name, t in vars(self).items()})


def draw(
    posteriors: Sequence[Posterior],
    captions: Sequence[Tensor],
    stats: LatentStats,
    settings: TrainSettings,
    first: int,
    others: Sequence[Tensor] = (),
) -> Batch:
    """A batch for training. What is random in a clip of the run hangs on its number and the seed alone.

    Args:
        posteriors: what the encoder makes of the clips, (12, T, h, w) each.
        captions: their features (L, width), of real tokens alone.
        first: the number of the first clip, counted over the run.
        others: features of the prompts that `settings.keep` is for.
    """
    latents, noises, levels, texts, kept = [], [], [], [], []
    for number, (posterior, caption) in enumerate(zip(posteriors, captions, strict=True), first):
        generator = generator_of(settings.seed, -1, number)
        spread = torch.randn(posterior.mean.shape, generator=generator)
        latents.append(sampled(posterior, spread))
        noises.append(torch.randn(posterior.mean.shape, generator=generator))
        levels.append(level(settings, generator))
        is_dropped, is_kept, other = (torch.rand((), generator=generator).item() for _ in range(3))
        kept.append(bool(others) and is_kept < settings.keep)
        if kept[-1]:  # with its prompt: without one, the model is to learn from the clips
            texts.append(others[int(other * len(others))])
        else:
            texts.append(caption[:0] if is_dropped < settings.caption_dropout else caption)
    noisy = to_dit(torch.stack(latents), stats), torch.stack(noises), torch.stack(levels)
    return Batch(*noisy, *padded(texts), torch.tensor(kept))


def fixed(posterior: Posterior, caption: Tensor, stats: LatentStats, sigma: float, number: int) -> Batch:
    """A batch of one clip to measure by, which never changes: the mean of its latents, at this level."""
    mean = posterior.mean.float()
    noise = torch.randn(mean.shape, generator=generator_of(number, -2))
    return Batch(
        to_dit(mean[None], stats), noise[None], torch.tensor([sigma]), *padded([caption]), torch.tensor([False])
    )


def sampled(posterior: Posterior, spread: Tensor) -> Tensor:
    """VAE latents of the encoder's Gaussian, at these distances from its mean in deviations."""
    return posterior.mean.float() + (posterior.logvar.float().clamp(*LOGVAR) / 2).exp() * spread


def level(settings: TrainSettings, generator: torch.Generator) -> Tensor:
    """A noise level, ()."""
    if settings.levels == "uniform":
        return torch.rand((), generator=generator)
    return torch.sigmoid(settings.level_mean + settings.level_deviation * torch.randn((), generator=generator))


def padded(captions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (L, width) of several captions -> (B, L, width) and mask (B, L), with zeros behind the shorter ones."""
    longest = max(1, *(len(caption) for caption in captions))
    features = captions[0].new_zeros(len(captions), longest, captions[0].shape[-1], dtype=torch.float32)
    mask = torch.zeros(len(captions), longest, dtype=torch.bool)
    for row, caption in enumerate(captions):
        features[row, : len(caption)] = caption
        mask[row, : len(caption)] = True
    return features, mask
