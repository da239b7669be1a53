"""A step of training a LoRA on the full-size denoiser: seconds and memory by the length of a clip, how the frozen
weights are packed, and what is computed again in the backward pass. Gradients of the tiny model on the device, beside
those on the CPU.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mochi.checkpoint import load_dit
from mochi.config import TINY_WEIGHTS, DiTConfig
from mochi.dit import AsymmDiT, BlockRunner, TextContext
from mochi.dit.attention import use_attention
from mochi.dit.backends import SDPA, attention_named
from mochi.geometry import latent_shape
from mochi.quant import Float8, Ggml, QuantFormat, quant_linears
from mochi.train.lora import add_lora
from mochi.train.recompute import call_for
from mochi.train.settings import RECOMPUTE, Rank, Recompute
from tests.exact import relative_error

from .correctness import AS_NEAR, CPU, ROUNDING, inputs, without_tf32
from .measuring import all_kernels_ran, judged, milliseconds, peak
from .quants import quantisable, with_weights
from .setting import Part, Setting

FRAMES = (37, 61, 85)
"""Of which the published trainer tells that a step takes 1.7, 3.4 and 5.4 s, and 50, 64 and 80 GB."""

PACKINGS: dict[str, QuantFormat | None] = {
    "bfloat16": None,
    "float8": Float8(torch.float8_e4m3fn, 1e-3),
    "Q4_0": Ggml("Q4_0"),
}
ATTENTION, MLP = Rank(16, 16.0), Rank(0, 16.0)


def section(s: Setting) -> Iterator[Part]:
    yield "gradients", partial(training, lambda: gradients(s))
    few = partial(Frozen, s, s.few_blocks(), None)
    for recompute in RECOMPUTE:
        yield f"few blocks, {recompute} again", partial(training, partial(measured, s, few, FRAMES[:1], recompute))
    for name, quant in PACKINGS.items():
        lengths = FRAMES if quant is None else FRAMES[:1]
        whole = partial(Frozen, s, s.dit, quant)
        yield name, partial(training, partial(measured, s, whole, lengths, "all but attention"))


def training(measure: Callable[[], Any]) -> Any:
    """What it measures, with gradients: sections run without."""
    with torch.inference_mode(False), torch.enable_grad():
        return measure()


class Frozen:
    """A denoiser of random weights, packed so, with a LoRA on it and its optimiser."""

    def __init__(self, s: Setting, config: DiTConfig, quant: QuantFormat | None):
        model = AsymmDiT(config, dtype=s.dtype, device="meta")
        if quant is not None:
            quant_linears(model, dict.fromkeys(quantisable(model), quant))
        self.model = with_weights(model.to_empty(device=s.device))
        use_attention(self.model.blocks, attention_named(SDPA, s.device, s.dtype, config.head_dim))
        layers = add_lora(self.model, ATTENTION, MLP).values()
        self.optimizer = torch.optim.AdamW([p for layer in layers for p in (layer.lora_A, layer.lora_B)], lr=1e-4)


def measured(
    s: Setting, frozen: Callable[[], Frozen], lengths: Sequence[int], recompute: Recompute
) -> dict[str, dict[str, Any]]:
    """Steps on clips of so many frames: of 848 x 480, or of 64 x 64."""
    made = frozen()
    found: dict[str, Any] = {"blocks": len(made.model.blocks)}
    for frames in lengths:
        latents = (1, 12, (frames - 1) // 6 + 1, 8, 8) if s.small else latent_shape(848, 480, frames)
        run = partial(step, made, *clip(s, made.model, latents), BlockRunner(call_for(recompute)))
        found[f"{frames} frames"] = {**peak(run, s.device), **milliseconds(run, s.device, 2, warm=0)}
    return found | all_kernels_ran()


def clip(s: Setting, model: AsymmDiT, latents: Sequence[int]) -> tuple[Tensor, Tensor, TextContext, Tensor]:
    """Noisy latents, the flow to be predicted, the longest prompt, and the table of positions."""
    config = model.config
    text = TextContext(s.random(1, config.hidden_x), s.random(1, s.text, config.hidden_y), (s.text,))
    return s.random(*latents), s.random(*latents, dtype=torch.float32), text, model.rotary(*latents[2:])


@torch.enable_grad()  # what counts bytes on a CPU turns it off
def step(made: Frozen, z: Tensor, flow: Tensor, text: TextContext, rotary: Tensor, runner: BlockRunner) -> None:
    sigma = torch.full((1,), 0.7, device=z.device)
    F.mse_loss(made.model(z, sigma, text, rotary, runner).float(), flow).backward()
    made.optimizer.step()
    made.optimizer.zero_grad()


def gradients(s: Setting) -> dict[str, Any]:
    """Beside those that the CPU computes in float32, where nothing is computed again."""
    right = on_cpu(torch.float32)
    found: dict[str, Any] = {
        recompute: judged(relative_error(of_tiny(s.device, torch.float32, recompute), right), ROUNDING)
        for recompute in RECOMPUTE
    }
    packed = relative_error(of_tiny(s.device, torch.float32, packed=True), on_cpu(torch.float32, packed=True))
    found["float8"] = judged(packed, ROUNDING)
    there = relative_error(on_cpu(torch.bfloat16), right)
    here = relative_error(of_tiny(s.device, torch.bfloat16), right) if s.cuda else there
    return {**found, "bfloat16": judged(here, AS_NEAR * there)}


def of_tiny(device: torch.device, dtype: torch.dtype, recompute: Recompute = "nothing", packed: bool = False) -> Tensor:
    """All gradients of a LoRA on the tiny model, one after the other, in host memory: of a prompt and of none.

    packed: whether the frozen weights are rounded to float8.
    """
    weights = torch.float8_e4m3fn if packed else dtype
    model = load_dit(TINY_WEIGHTS / "dit.safetensors", weights, device, compute=dtype)
    factors = [p for layer in add_lora(model, Rank(4, 8.0), Rank(4, 4.0)).values() for p in layer.parameters(False)]
    generator = torch.Generator().manual_seed(1)
    for p in factors:
        p.data.copy_(0.1 * torch.randn(p.shape, generator=generator))
    z, features, mask = inputs((9, 0))
    flow, sigma = torch.randn(z.shape, generator=generator), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        text = model.encode_text(features.to(device, dtype), mask.to(device))
    with without_tf32():
        found = model(z.to(device, dtype), sigma.to(device), text, runner=BlockRunner(call_for(recompute)))
        F.mse_loss(found.float(), flow.to(device)).backward()
    return torch.cat([p.grad.flatten().cpu() for p in factors if p.grad is not None])


@lru_cache
def on_cpu(dtype: torch.dtype, packed: bool = False) -> Tensor:
    return of_tiny(CPU, dtype, packed=packed)
