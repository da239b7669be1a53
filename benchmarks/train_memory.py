"""The memory of a training step beside its forecast: `python -m benchmarks.train_memory`, on a CPU, in three minutes.

A LoRA is trained for a step, by the trainer's own network and optimiser, and the tensors that are alive are counted,
all but the frozen weights. It prints, for each case: bytes predicted and measured, and their ratio. Tensors have no
values, but those of the case that says so. The published model goes through whole, at the published size.

What kernels take in themselves is not seen. Without values, attention is the kernel that CUDA has for the dtype, which
keeps its output and the log-sum-exp of its scores, as the CPU's does; all else is the plain torch that a CPU runs. On
CUDA, kernels of ours compute forward, with less in between. The peak is in the backward pass, which is the same there.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.live import LiveBytes
from benchmarks.memory import MEDIUM, AlonePeers
from benchmarks.report import add_option, report
from mochi.config import PREVIEW, TINY, DiTConfig
from mochi.dit import AsymmDiT, BlockRunner, TextContext
from mochi.dit.attention import use_attention
from mochi.dit.runner import BlockCall
from mochi.geometry import latent_shape
from mochi.memory import weight_bytes
from mochi.parallel.spmd.ulysses_autograd import LearningShards
from mochi.quant import Float8, Ggml, QuantFormat, quant_linears
from mochi.train.lora import add_lora
from mochi.train.memory import Training
from mochi.train.network import Network
from mochi.train.objective import Batch
from mochi.train.optimizer import Optimizer
from mochi.train.ranks import Ranks
from mochi.train.settings import RECOMPUTE, Rank, TrainSettings


class Figures(NamedTuple):
    """Bytes without those of the frozen weights."""

    predicted: int
    measured: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_memory", description=__doc__.split("\n\n")[0])
    add_option(parser)
    options, figures = parser.parse_args(), {}
    for name, measure in cases():
        predicted, measured = measure()
        figures[name] = {"predicted MB": predicted / 1e6, "measured MB": measured / 1e6, "ratio": predicted / measured}
    report("training memory", figures, options.json)


def cases() -> Iterator[tuple[str, Callable[[], Figures]]]:
    bf16, f32 = torch.bfloat16, torch.float32
    small, medium, few = (1, 12, 4, 24, 24), (1, 12, 8, 40, 40), (1, 12, 8, 32, 32)
    for real in (False, True):
        title = "tiny, float32" + ", with values" * real
        yield title, partial(compare, Training(TINY.dit, 0, small, compute=f32, prompt=40), real=real)
    for recompute in RECOMPUTE:
        for dtype in (bf16, f32):
            title = f"768 wide, {str(dtype).removeprefix('torch.')}, {recompute} recomputed"
            yield title, partial(compare, Training(MEDIUM, 0, medium, compute=dtype, recompute=recompute))
    yield (
        "768 wide, two clips, two batches, an average",
        partial(compare, Training(MEDIUM, 0, (2, *medium[1:]), TrainSettings(accumulate=2, ema=0.9))),
    )
    yield (
        "768 wide, LoRA on MLPs, dropout",
        partial(compare, Training(MEDIUM, 0, medium, TrainSettings(mlp=Rank(16, 16.0), dropout=0.1))),
    )
    for ranks in (2, 6):
        yield f"768 wide, one of {ranks} ranks", partial(compare, Training(MEDIUM, 0, medium, ulysses=ranks))
    wide = DiTConfig(depth=2)
    for dtype in (bf16, f32):
        yield (
            f"published width, {str(dtype).removeprefix('torch.')}",
            partial(compare, Training(wide, 0, few, compute=dtype)),
        )
    for quant in (Float8(torch.float8_e4m3fn), Ggml("Q8_0")):
        yield f"published width, {quant.title}", partial(compare, Training(wide, 0, few), quant)
    for frames in (37, 61, 85, 163):
        yield f"published model, {frames} frames", partial(compare, published(frames))
    yield "published model, 163 frames, blocks recomputed", partial(compare, published(163, recompute="blocks"))
    yield "published model, 163 frames, one of 4 ranks", partial(compare, published(163, ulysses=4))


def published(frames: int, **options: Any) -> Training:
    """Of 848 x 480, in bfloat16."""
    return Training(PREVIEW.dit, 0, latent_shape(848, 480, frames), **options)


def compare(run: Training, quant: QuantFormat | None = None, real: bool = False) -> Figures:
    """A run, whose `weights` are set here."""
    dequantizing = 0 if isinstance(quant, Float8) else run.dequantizing
    run = replace(run, weights=weight_bytes(run.config, quant, run.compute), dequantizing=dequantizing)
    parts = run.need.parts
    return Figures(sum(parts.values()) - parts["weights"] - parts["slack"], measured(run, quant, real))


class Alone(Ranks):
    """A rank of one group, whose peers send what happens to be in memory: it holds what a real one holds."""

    def runner(self, model: AsymmDiT, call: BlockCall) -> BlockRunner:
        return BlockRunner(call) if self.ulysses == 1 else LearningShards(AlonePeers(self.ulysses), call)

    def _check_groups(self) -> None: ...


class Prompted(Network):
    """A network whose captions are encoded already, at their full length."""

    def text(self, features: Tensor, mask: Tensor) -> TextContext:
        config, device = self.model.config, self.ranks.device
        batch, length = mask.shape
        caption, tokens = (
            torch.zeros(*shape, dtype=self.dtype, device=device)
            for shape in ((batch, config.hidden_x), (batch, length, config.hidden_y))
        )
        return TextContext(caption, tokens, (length,) * batch)


class Counter(LiveBytes):
    """LiveBytes to which numbers of tensors without values are 1."""

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1.0
        return super().__torch_dispatch__(operation, types, args, kwargs)


def measured(run: Training, quant: QuantFormat | None = None, real: bool = False) -> int:
    """The most bytes that are alive in a step of one rank, without those of the frozen weights. real: with values."""
    config, device = run.config, torch.device("cpu" if real else "meta")
    model = AsymmDiT(config, dtype=run.compute, device=device).requires_grad_(False)
    if real:
        for p in model.parameters():
            p.normal_(0, 0.02)
    else:
        use_attention(model.blocks, _cuda_attention)
    if quant is not None:
        linears = (name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2)
        quant_linears(model, dict.fromkeys(linears, quant))
    with Counter(list(model.parameters())) as live:
        layers = add_lora(model, run.settings.attention, run.settings.mlp, run.settings.dropout)
        model.train()
        network = Prompted(model, layers, Alone(device, run.ulysses), run.compute, run.recompute)
        optimizer = Optimizer(network.parameters, run.settings)
        optimizer.update()  # without gradients: from here on there are moments, as in all steps but the first
        for _ in range(run.settings.accumulate):
            network.loss(_clips(run, device)).mean().backward()
        optimizer.update()
    return live.peak


def _clips(run: Training, device: torch.device) -> Batch:
    batch = run.latents[0]
    z, noise = (torch.zeros(*run.latents, device=device) for _ in range(2))
    features, mask = torch.zeros(batch, run.prompt, 1, device=device), torch.ones(batch, run.prompt, dtype=torch.bool)
    return Batch(z, noise, torch.full((batch,), 0.5, device=device), features, mask, torch.zeros(batch).bool())


def _cuda_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """By the kernel that CUDA has for the dtype."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if q.dtype == torch.float32:
        out = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[0]
    else:
        out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return out.transpose(1, 2)


if __name__ == "__main__":
    main()
