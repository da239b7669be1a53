"""What a guided step of the published model should take on 1 to 8 H100: `python -m benchmarks.h100 [--json]`.

Computed on paper, nothing is run: work from the sizes (flops.py), divided by published peak rates times the parts of
them that are reached, which are options. These come from the newest run of `python -m benchmarks.gpu` on such a card
(benchmarks/results), or are assumed where there is none. To be compared with what `python -m benchmarks.group` measures
on such a machine. Peaks are those of NVIDIA's data sheet of the H100 SXM: 989 TFLOP/s in bfloat16 without sparsity,
HBM3 at 3.35 TB/s, NVLink at 900 GB/s, which is 450 GB/s in each direction. The H200 has HBM3e at 4.8 TB/s.

What is not in it: prompts (once a run), the sampler, launching of kernels, waiting for the slowest rank, and the
exchange of two predictions by the halves of guidance (8.5 MB a step).
"""

import argparse
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import flops
from benchmarks.gpu import results
from benchmarks.report import add_option, report
from mochi.config import PREVIEW, DiTConfig, ModelConfig
from mochi.geometry import latent_shape
from mochi.memory import tokens_of
from mochi.parallel.split import Split, splits
from mochi.parallel.spmd.vae import plan_strips

GPUS = (1, 2, 4, 8)
PASSES = 2
"""Of a guided step: with the prompt and without."""


@dataclass(frozen=True)
class Machine:
    """Peaks of one GPU, and the part of each that is taken to be reached: assumptions. See `known_machine`."""

    tflops: float = 989.0  # bfloat16, 10^12 a second
    memory_gb: float = 3350.0  # GB a second
    link_gb: float = 450.0  # GB a second that a GPU sends, and receives as many
    matmul_rate: float = 0.7
    attention_rate: float = 0.6
    memory_rate: float = 0.8
    link_rate: float = 0.8

    def multiplying(self, count: float) -> float:
        return count / (1e12 * self.tflops * self.matmul_rate)

    def attending(self, count: float) -> float:
        return count / (1e12 * self.tflops * self.attention_rate)

    def moving(self, size: float) -> float:
        return size / (1e9 * self.memory_gb * self.memory_rate)

    def sending(self, size: float) -> float:
        return size / (1e9 * self.link_gb * self.link_rate)


MEMORY_GB = {"H100": 3350.0, "H200": 4800.0}
"""Peaks of the cards whose chip this is, by what is in their names."""


def known_machine(folder: Path = results.FOLDER) -> tuple[Machine, str]:
    """The machine of the newest run on such a card, with the rates that it reached, and what says so."""
    runs = [(card, results.newest(folder, card)) for card in MEMORY_GB]
    card, run = max(((card, run) for card, run in runs if run), key=lambda one: one[1]["date"], default=("", None))
    assumed = Machine()
    if run is None:
        return assumed, "assumed, nothing measured"
    products = results.figure(run, "environment", "products", "TFLOP/s")
    attention = results.figure(run, "attention", "mochi", "TFLOP/s")
    copy = results.figure(run, "environment", "copies", "on the device GB/s")
    measured = {
        "matmul_rate": products and products / assumed.tflops,
        "attention_rate": attention and attention / assumed.tflops,
        "memory_rate": copy and copy / MEMORY_GB[card],
    }
    known = {name: rate for name, rate in measured.items() if rate}
    says = f"{', '.join(known)} measured on {run['card']}, torch {run['torch']}, {run['date']}; all else assumed"
    return replace(assumed, memory_gb=MEMORY_GB[card], **known), says


class Pass(NamedTuple):
    """Seconds of a forward pass on one rank, by what they go to. What is sent is taken not to be hidden at all, which
    is the worst case: v is on its way while q and k are normed. gathering: of weights, as far as a block's do
    not arrive while the block before computes."""

    linears: float
    attention: float
    elementwise: float
    sending: float
    gathering: float


def forward_pass(
    machine: Machine, config: DiTConfig, visual: int, text: int, split: Split, sharded: bool, eager: bool = False
) -> Pass:
    """One pass over N visual and L text tokens, on one of the ranks that share it. sharded: over all ranks.
    eager: without kernels."""
    p, own = split.ulysses_degree, -(-visual // split.ulysses_degree)
    work = flops.dit_flops(config, visual, text, p)
    moved = flops.elementwise(config, own, text, p)
    linears, attention = machine.multiplying(work.linears), machine.attending(work.attention)
    elementwise = machine.moving(config.depth * (moved.eager if eager else moved.fused))
    gather = 0.0
    if sharded:
        block = machine.sending(flops.block_bytes(config) * (split.ranks - 1) / split.ranks)
        computing = (linears + attention + elementwise) / config.depth
        gather = block + (config.depth - 1) * max(0.0, block - computing)
    return Pass(
        linears,
        attention,
        elementwise,
        machine.sending(flops.sent(config, visual, text, p).all if p > 1 else 0),
        gather,
    )


def steps_table(
    machine: Machine, model: ModelConfig, latents: tuple[int, ...], text: int, steps: int, eager: bool = False
) -> dict[str, dict[str, Any]]:
    """Milliseconds of a guided step for each number of GPUs, split and way to keep the weights; seconds of a run."""
    config, visual = model.dit, tokens_of(model.dit, latents)[1]
    whole = PASSES * flops.dit_flops(config, visual, text).all
    one, table = 0.0, {}
    for gpus in GPUS:
        for split in splits(gpus, config.num_heads) if gpus > 1 else [Split(1, 1)]:
            for sharded in (False, True) if gpus > 1 else (False,):
                of_pass = forward_pass(machine, config, visual, text, split, sharded, eager)
                passes = PASSES // split.cfg_degree
                step = passes * sum(of_pass)
                one = one or step
                title = f"{gpus}: {split}, {'sharded' if sharded else 'replicated'}" if gpus > 1 else "1"
                table[title] = {
                    **{f"{name} ms": 1000 * passes * seconds for name, seconds in of_pass._asdict().items()},
                    "step ms": 1000 * step,
                    "speed-up": one / step,
                    f"{steps} steps s": steps * step,
                    "floor s": steps * whole / gpus / (1e12 * machine.tflops),
                }
    return table


def decoding_table(machine: Machine, model: ModelConfig, latents: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Seconds of the decoder's convolutions in strips: at the rate of matrix products, and at the peak."""
    work, table = flops.decoder_flops(model.decoder, latents[2:]), {}
    for gpus in GPUS:
        strips = plan_strips(*latents[3:], gpus)
        share = max(strips.sizes) / sum(strips.sizes)
        table[f"{gpus}"] = {
            "TFLOP a rank": work * share / 1e12,
            "convolutions s": machine.multiplying(work * share),
            "floor s": work / gpus / (1e12 * machine.tflops),
        }
    return table


def main() -> None:
    known, says = known_machine()
    options = _parser(known).parse_args()
    machine = Machine(**{field.name: getattr(options, field.name) for field in fields(Machine)})
    latents = latent_shape(options.width, options.height, options.frames)
    steps = steps_table(machine, PREVIEW, latents, options.text_tokens, options.steps, options.eager)
    decoding = decoding_table(machine, PREVIEW, latents)
    if options.json:
        report(
            "h100",
            {"machine": {**asdict(machine), "rates": says}, "guided step": steps, "decoding": decoding},
            as_json=True,
        )
        return
    visual = tokens_of(PREVIEW.dit, latents)[1]
    rates = ", ".join(f"{name} {value:g}" for name, value in asdict(machine).items())
    print(f"On paper: {visual} + {options.text_tokens} tokens; {rates} ({says})\n")
    report("GPUs: split, weights", steps, as_json=False)
    print()
    report("GPUs that decode", decoding, as_json=False)


def _parser(known: Machine) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.h100", description=__doc__.split("\n\n")[0])
    defaults = PREVIEW.defaults
    for name in ("width", "height", "frames", "steps"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help="default: %(default)s")
    parser.add_argument("--text-tokens", type=int, default=PREVIEW.dit.text_length, help="of each prompt, at most 256")
    parser.add_argument("--eager", action="store_true", help="without the kernels that fuse elementwise operations")
    for field in fields(Machine):
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, type=float, default=getattr(known, field.name), help="default: %(default)s")
    add_option(parser)
    return parser


if __name__ == "__main__":
    main()
