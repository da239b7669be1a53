"""AdamW on the factors of a LoRA, with warm-up, a cosine, and an average of the weights."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Of the step with this number, counted from 0: a ramp of `warmup` steps, then half a cosine down to 0."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / (settings.warmup + 1)
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * (1 + math.cos(math.pi * min(1.0, progress))) / 2


class Optimizer:
    """Changes parameters step by step.

    Attributes:
        step: how many steps are done.
        average: of the parameters over the last steps, by name; the parameters themselves where none is wanted.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainSettings):
        self.parameters, self._settings, self.step = dict(parameters), settings, 0
        self._adam = torch.optim.AdamW(
            list(self.parameters.values()), lr=settings.lr, weight_decay=settings.weight_decay, foreach=True
        )
        self.average = {name: p.detach() for name, p in self.parameters.items()}
        if settings.ema:
            self.average = {name: p.clone() for name, p in self.average.items()}

    @property
    def gradients(self) -> list[Tensor]:
        """Of all parameters, in their order; zeros where there is none yet."""
        for p in self.parameters.values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def update(self) -> tuple[float, float]:
        """A step along the gradients, which are then forgotten. Returns the learning rate and the gradients' length.

        Where that is no number, nothing is changed.
        """
        length = torch.nn.utils.get_total_norm(self.gradients).item()
        lr = learning_rate(self._settings, self.step)
        if not math.isfinite(length):
            return lr, length
        if self._settings.clip:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self._settings.clip, torch.tensor(length))
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self.step += 1
        self._follow()
        return lr, length

    @torch.no_grad()
    def _follow(self) -> None:
        if self._settings.ema:
            # The first averages are of few steps, so that the start has no weight.
            kept = min(self._settings.ema, (1 + self.step) / (10 + self.step))
            for average, p in zip(self.average.values(), self.parameters.values(), strict=True):
                average.lerp_(p, 1 - kept)

    def state(self) -> dict[str, Tensor]:
        """All that has to be kept to go on, by names for a file."""
        kept = {f"lora.{name}": p.detach() for name, p in self.parameters.items()}
        if self._settings.ema:
            kept |= {f"ema.{name}": average for name, average in self.average.items()}
        for name, p in self.parameters.items():
            kept |= {f"adam.{key}.{name}": value for key, value in self._adam.state.get(p, {}).items()}
        return kept

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        """Go on from a state. Raises KeyError where it lacks something."""
        self.step = step
        for name, p in self.parameters.items():
            p.copy_(state[f"lora.{name}"])
            if self._settings.ema:
                self.average[name].copy_(state[f"ema.{name}"])
            if f"adam.step.{name}" in state:
                # Copies: a tensor of a file keeps it open, and Windows replaces no file that is open.
                moments = {
                    key: state[f"adam.{key}.{name}"].to(p.device, copy=True) for key in ("exp_avg", "exp_avg_sq")
                }
                self._adam.state[p] = {"step": state[f"adam.step.{name}"].clone(), **moments}
