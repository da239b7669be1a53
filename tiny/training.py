"""What both trainers share: a run that is measured in minutes and continues where it stopped."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

Network = TypeVar("Network", bound=nn.Module)


class Run(Generic[Network]):
    """AdamW with warm-up and a cosine that ends with the budget, EMA weights, and a checkpoint of it all.

    The budget counts training time over all starts, so that a run can be stopped and started again.
    """

    def __init__(
        self,
        model: Network,
        path: Path,
        minutes: float,
        lr: float,
        ema: float,
        warmup: int = 100,
        rates: Mapping[str, float] | None = None,
    ):
        """rates: factors on the learning rate of parameters whose names begin so."""
        self.model, self.path = model, path
        self.budget, self.lr, self.decay, self.warmup = minutes * 60, lr, ema, warmup
        self.parameters = dict(model.named_parameters())
        self.averaged = {name: p.detach().clone() for name, p in self.parameters.items()}
        groups: dict[float, list[nn.Parameter]] = {}
        for name, p in self.parameters.items():
            rate = next((rate for prefix, rate in (rates or {}).items() if name.startswith(prefix)), 1.0)
            groups.setdefault(rate, []).append(p)
        self.optimizer = torch.optim.AdamW(
            [{"params": some, "rate": rate} for rate, some in groups.items()],
            lr=lr,
            betas=(0.9, 0.98),
            weight_decay=1e-3,
        )
        self.step, self.elapsed = 0, 0.0
        self._clock = time.monotonic()
        if path.exists():
            self._resume()

    @property
    def done(self) -> bool:
        return self.elapsed >= self.budget

    def update(self, loss: Tensor) -> None:
        """One optimizer step, with the learning rate that the clock says."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.elapsed += self._agree(time.monotonic() - self._clock)
        self._clock = time.monotonic()

        progress = min(1.0, self.elapsed / self.budget)
        cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * self.lr * min(1.0, (self.step + 1) / self.warmup) * cosine
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.parameters.items():
                self.averaged[name].lerp_(p, 1 - decay)

    def _agree(self, seconds: float) -> float:
        """Under torchrun, average the gradients and the seconds of this step over the processes."""
        if not dist.is_initialized():
            return seconds
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor([seconds])])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        *averages, seconds_of_all = flat.split([*(g.numel() for g in gradients), 1])
        for gradient, average in zip(gradients, averages, strict=True):
            gradient.copy_(average.view_as(gradient))
        return seconds_of_all.item()

    def pause(self) -> None:
        """Do not count the time since the last step, spent on evaluation or saving."""
        self._clock = time.monotonic()

    def save(self) -> None:
        tensors = {f"model.{k}": p.detach() for k, p in self.parameters.items()}
        tensors |= {f"ema.{k}": v for k, v in self.averaged.items()}
        for name, p in self.parameters.items():
            for key, value in self.optimizer.state.get(p, {}).items():
                tensors[f"adam.{key}.{name}"] = value
        temporary = self.path.with_suffix(".part")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        save_file(tensors, temporary, {"run": json.dumps({"step": self.step, "elapsed": self.elapsed})})
        temporary.replace(self.path)

    def _resume(self) -> None:
        with safe_open(self.path, "pt") as file, torch.no_grad():
            state = json.loads(file.metadata()["run"])
            self.step, self.elapsed = state["step"], state["elapsed"]
            keys = set(file.keys())
            for name, p in self.parameters.items():
                p.copy_(file.get_tensor(f"model.{name}"))
                self.averaged[name].copy_(file.get_tensor(f"ema.{name}"))
                adam = {k: f"adam.{k}.{name}" for k in ("step", "exp_avg", "exp_avg_sq")}
                if adam["step"] in keys:
                    self.optimizer.state[p] = {k: file.get_tensor(key) for k, key in adam.items()}


def computing_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies in it. Elsewhere it is emulated, at a twentieth of float32's pace."""
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def in_dtype(model: nn.Module, dtype: torch.dtype, *args: object) -> Any:
    """Run a float32 model in a dtype, gradients flowing to the float32 weights.

    In bfloat16 it is twice as fast as autocast on a CPU, which goes back to float32 for every padding.
    """
    if dtype == torch.float32:
        return model(*args)
    return functional_call(model, {k: p.to(dtype) for k, p in model.named_parameters()}, args)


def join_processes() -> tuple[int, int]:
    """Rank and number of the processes that train together: those of torchrun, or this one alone."""
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
