"""The tiny model on the device beside the CPU, each figure beside the bound that it must keep.

In float32 the two must agree to rounding. In bfloat16 and float16 the device must be as near to float32 as the CPU is
in that dtype.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mochi.checkpoint import load_decoder, load_dit, load_encoder
from mochi.config import TINY, TINY_WEIGHTS
from mochi.dit import PLAIN, BlockRunner
from mochi.dit.cache import CachePlan, StepCache
from mochi.quant import QUANT_DTYPE, Float8, Ggml, QuantLinear, use_float8_products
from mochi.quant.ggml import FORMATS
from tests.exact import relative_error

from .measuring import judged
from .setting import Part, Setting

CPU = torch.device("cpu")
without_tf32 = partial(torch.backends.cudnn.flags, enabled=True, allow_tf32=False)
"""torch lets cuDNN round what it convolves in float32 to 19 bits unless told otherwise."""

PROMPTS = ((9,), (0,), (1,), (9, 9), (5, 0, 256))
"""Text tokens of the samples of a batch."""

ROUNDING = 1e-4
"""Relative: what float32 loses in a network when sums are taken in another order, with room."""
AS_NEAR = 1.5
"""How much farther from float32 the device may be than the CPU in the same dtype."""
FLOAT8 = 0.05
"""float8 rounds each activation by up to 1/16 of it, 2.6 % of all."""
SIGMAS = (1.0, 0.9, 0.8, 0.5)
ONE_LEVEL = (0.7,)
LEVELS = (0.0, 0.3, 0.7)
"""Noise levels of the 3 latent frames."""


def section(s: Setting) -> Iterator[Part]:
    for lengths in PROMPTS:
        yield f"denoiser, text tokens {list(lengths)}", partial(denoiser, s, lengths)
    yield "denoiser, levels of frames", partial(denoiser, s, (9, 0), LEVELS)
    yield "denoiser, levels of frames, compiled", partial(compiled, s, LEVELS)
    yield "denoiser, levels of frames, float8 products", lambda: fast_levels(s)
    yield "denoiser, compiled", lambda: compiled(s)
    yield "TeaCache", lambda: {"ok": skipped_passes(s.device) == skipped_passes(CPU)}
    for kind in FORMATS:
        yield f"unpacking {kind}", partial(dequantising, s, Ggml(kind))
    for name, dtype in {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}.items():
        yield f"float8 products in {name}", partial(float8_products, s, dtype)
    yield "VAE", lambda: vae(s)
    yield "pipeline", lambda: pipeline(s)


def denoiser(s: Setting, lengths: Sequence[int], levels: Sequence[float] = ONE_LEVEL) -> dict[str, Any]:
    def here(dtype: torch.dtype) -> Tensor:
        return dit_pass(s.device, dtype, lengths, levels=levels)

    right = on_cpu(torch.float32, lengths, levels)
    found = {"float32": judged(relative_error(here(torch.float32), right), ROUNDING)}
    for dtype in (torch.bfloat16, torch.float16):
        there = relative_error(on_cpu(dtype, lengths, levels), right)
        error = relative_error(here(dtype), right) if s.cuda else there
        found[str(dtype).removeprefix("torch.")] = judged(error, AS_NEAR * there)
    return found


def fast_levels(s: Setting) -> dict[str, Any]:
    """Norms then hand on quantised rows, frame by frame. Nothing but rounding sets one card apart from another."""
    right = on_cpu(torch.float32, (9, 0), LEVELS)
    there = relative_error(on_cpu(torch.bfloat16, (9, 0), LEVELS, fast=True), right)
    here = dit_pass(s.device, torch.bfloat16, (9, 0), levels=LEVELS, fast=True)
    return judged(relative_error(here, right), AS_NEAR * there)


def compiled(s: Setting, levels: Sequence[float] = ONE_LEVEL) -> dict[str, Any]:
    from mochi.dit.compiled import CompiledBlocks

    found = dit_pass(s.device, torch.float32, (9, 9), BlockRunner(CompiledBlocks(s.compiler)), levels)
    return judged(relative_error(found, on_cpu(torch.float32, (9, 9), levels)), ROUNDING)


def dit_pass(
    device: torch.device,
    dtype: torch.dtype,
    lengths: Sequence[int],
    runner: BlockRunner = PLAIN,
    levels: Sequence[float] = ONE_LEVEL,
    fast: bool = False,
) -> Tensor:
    """A pass of the tiny denoiser over a batch with such prompts; the same inputs on any device. In float32, here.

    The patch embedding is a convolution.

    Args:
        levels: a noise level, or one for each latent frame.
        fast: whether weights are rounded to float8, and multiplied so.
    """
    model = load_dit(TINY_WEIGHTS / "dit.safetensors", torch.float8_e4m3fn if fast else dtype, device, compute=dtype)
    if fast:
        use_float8_products(model)
    z, features, mask = inputs(lengths)
    text = model.encode_text(features.to(device, dtype), mask.to(device))
    with without_tf32():
        sigma = torch.tensor([levels[0] if len(levels) == 1 else levels] * len(lengths), device=device)
        return model(z.to(device, dtype), sigma, text, runner=runner).float().cpu()


@lru_cache
def on_cpu(
    dtype: torch.dtype, lengths: Sequence[int], levels: Sequence[float] = ONE_LEVEL, fast: bool = False
) -> Tensor:
    return dit_pass(CPU, dtype, lengths, levels=levels, fast=fast)


def inputs(lengths: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (B, 12, 3, 8, 8), T5 features (B, 256, text width) and their mask, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(len(lengths), 12, 3, 8, 8, generator=generator)
    features = torch.randn(len(lengths), TINY.dit.text_length, TINY.dit.text_width, generator=generator)
    return z, features, torch.arange(TINY.dit.text_length)[None] < torch.tensor(lengths)[:, None]


def skipped_passes(device: torch.device) -> dict[Any, bool]:
    """Which passes of a short run a step cache computes."""
    model = load_dit(TINY_WEIGHTS / "dit.safetensors", torch.float32, device)
    z, features, mask = (t.to(device) for t in inputs((9,)))
    text, cache = model.encode_text(features, mask), StepCache(CachePlan(0.3, (*SIGMAS, 0.0)))
    for sigma in SIGMAS:
        with without_tf32():
            model(sigma * z, torch.full((1,), sigma, device=device), text, runner=cache.around([0], sigma))
    return dict(cache.passes)


def dequantising(s: Setting, quant: Ggml) -> dict[str, Any]:
    """Of any bytes, among which are scales that are no numbers."""
    generator = torch.Generator().manual_seed(0)
    qweight = torch.randint(-128, 128, (64, quant.row_bytes(512)), dtype=QUANT_DTYPE, generator=generator)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        there, here = quant.dequantize(qweight, dtype), quant.dequantize(qweight.to(s.device), dtype).cpu()
        numbers = there.isfinite()
        same = numbers.equal(here.isfinite())
        found[str(dtype).removeprefix("torch.")] = {
            "equal": same and there[numbers].equal(here[numbers]),
            **judged(relative_error(here[numbers], there[numbers]) if same else float("inf"), 1e-6),
        }
    return found


def float8_products(s: Setting, dtype: torch.dtype) -> dict[str, Any]:
    """Beside products of the same weights in float32; where the device has none, they are in `dtype` after all."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.05 * torch.randn(256, 512, generator=generator)
    quant = Float8(torch.float8_e4m3fn, weight.abs().max().item() / 448, fast=True)
    layer = QuantLinear(512, 256, False, quant)
    layer.weight.data = quant.quantize(weight)
    found = {}
    for rows in (1, 33):
        x = torch.randn(3, rows, 512, generator=generator)
        right = F.linear(x, quant.dequantize(layer.weight.cpu(), torch.float32))
        found[f"{rows} rows"] = judged(relative_error(layer.to(s.device)(x.to(s.device, dtype)), right), FLOAT8)
    return found


def vae(s: Setting) -> dict[str, Any]:
    """In float32 judged is what it does without TF32."""
    right, found = vae_pass(CPU, torch.float32), {}
    with without_tf32():
        found["float32"] = vae_errors(vae_pass(s.device, torch.float32), right, dict.fromkeys(right, ROUNDING))
    if s.cuda:
        found["float32 as torch comes"] = vae_errors(vae_pass(s.device, torch.float32), right, {})
    there = {name: AS_NEAR * relative_error(t, right[name]) for name, t in vae_pass(CPU, torch.bfloat16).items()}
    found["bfloat16"] = vae_errors(vae_pass(s.device, torch.bfloat16), right, there)
    return found


def vae_pass(device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Latents of a video, and frames of given latents: as a stream, and as a whole."""
    generator = torch.Generator().manual_seed(0)
    video = 2 * torch.rand(1, 3, 13, 64, 80, generator=generator) - 1
    latents = torch.randn(1, 12, 5, 8, 10, generator=generator).to(device, dtype)
    encoder = load_encoder(TINY_WEIGHTS / "encoder.safetensors", dtype, device)
    decoder = load_decoder(TINY_WEIGHTS / "decoder.safetensors", dtype, device)
    return {
        "encoded": encoder.in_pieces(video.to(device, dtype)).mean,
        "streamed": torch.cat(list(decoder.stream(latents)), dim=2),
        "whole": decoder(latents),
    }


def vae_errors(found: dict[str, Tensor], right: dict[str, Tensor], bounds: dict[str, float]) -> dict[str, Any]:
    figures = {name: relative_error(t, right[name]) for name, t in found.items()}
    judgement = {name: judged(value, bounds[name]) if name in bounds else value for name, value in figures.items()}
    return {**judgement, "streamed beside whole": relative_error(found["streamed"], found["whole"])}


def pipeline(s: Setting) -> dict[str, Any]:
    """Frames of a prompt, in float32. T5 and the tokenizer are transformers'."""
    if find_spec("transformers") is None:
        return {"skipped": "transformers is not installed"}
    with without_tf32():
        return judged(relative_error(frames(s.device), frames(CPU)), ROUNDING)


def frames(device: torch.device) -> Tensor:
    """(F, H, W, 3): 25 of 32 x 32, in 4 steps, of the tiny model."""
    from mochi.pipeline import GenerateSettings, load_pipeline

    made = load_pipeline(device=device, dtype=torch.float32)
    settings = GenerateSettings.of(made.config.defaults, prompt="a red circle", seed=1)
    settings = replace(settings, width=32, height=32, frames=25, steps=4)
    return torch.cat(list(made.generate(settings)))
