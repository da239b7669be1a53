"""What a group of ranks gains over one rank, on the same work in one run: `python -m benchmarks.group [--json]`.

It prints, for the denoiser and the decoder: the relative error against one rank, seconds with one rank and with all,
the speed-up; the bytes that a rank sends in a forward pass beside the formula; and what a request costs beyond its
computation. Runs alternate between one rank and all, and the best of each counts. On the CPU each rank has one thread.

On a machine with 4 GPUs: `python -m benchmarks.group --gpus 4`. With the published weights:
`python -m benchmarks.group --gpus 4 --dit dit.safetensors --decoder decoder.safetensors`.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import add_option, report
from benchmarks.work import SMALL, WIDE, Sizes, weight_files
from mochi.checkpoint import Checkpoint
from mochi.config import DiTConfig
from mochi.errors import GroupError, MochiError
from mochi.parallel.owner.client import RemoteDiT, RemoteVAE, finish
from mochi.parallel.owner.manager import GroupManager
from mochi.parallel.protocol import Event, FramesDecoded, GetStatus, LoadDiT, LoadVAE
from mochi.parallel.settings import ParallelSettings
from mochi.parallel.split import choose_split
from tests.exact import relative_error

PUBLISHED_LATENTS = (1, 12, 28, 60, 106)
LEAST = DiTConfig(depth=1, num_heads=2, hidden_x=16, hidden_y=16, mlp_x=16, mlp_y=16, text_width=16, caption_heads=1)


def main() -> int:
    options = _parser().parse_args()
    try:
        results = measure(options)
    except (MochiError, GroupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report("group", results, options.json)
    return 0


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    settings = ParallelSettings(options.gpus, sharding=options.weights)
    devices = settings.devices()
    sizes = SMALL if devices[0] == "cpu" else WIDE
    threads = 1 if devices[0] == "cpu" else None
    with (
        weight_files(sizes) as (dit, decoder),
        closing(GroupManager(devices[:1], settings.timeout, threads=threads)) as one,
        closing(GroupManager(devices, settings.timeout, threads=threads)) as all_ranks,
    ):
        dit, decoder = options.dit or dit, options.decoder or decoder
        sharding = settings.sharding_for(dit.stat().st_size)
        return {
            "machine": {"ranks": len(devices), "devices": ", ".join(devices), "torch": torch.__version__},
            **denoiser(one, all_ranks, dit, sizes, sharding, options.repeats),
            "decoder": decoding(one, all_ranks, decoder, sizes, options.repeats),
            "request": request_overhead(all_ranks, options.repeats),
        }


def denoiser(
    one: GroupManager, group: GroupManager, file: Path, sizes: Sizes, sharding: str, repeats: int
) -> dict[str, dict[str, Any]]:
    """One pass (spread by Ulysses), and the two passes of a guided step (spread by guidance first)."""
    config = Checkpoint.open(file).config("dit")
    request = LoadDiT(file, sizes.dtype, sizes.dtype, sharding)
    models = [RemoteDiT(manager, request) for manager in (one, group)]
    mask = torch.arange(config.text_length)[None] < sizes.prompt_tokens
    features = _random(1, config.text_length, config.text_width)
    texts = [model.text(features, mask) for model in models]
    z = _random(1, config.channels, *sizes.latents)
    figures = {}
    for name, passes in (("one pass", 1), ("guided step", 2)):
        batch = torch.cat([z] * passes), torch.full((passes,), 0.5)

        def run(model: RemoteDiT, text: Any, batch: tuple[Tensor, Tensor] = batch, passes: int = passes) -> Tensor:
            return finish(model.forward(*batch, [(text, 0)] * passes))

        (alone, seconds), (together, seconds_together) = alternate(
            [lambda m=m, t=t, run=run: run(m, t) for m, t in zip(models, texts)], repeats
        )
        split = choose_split(group.use().size, config.num_heads, passes)
        figures[f"denoiser, {name}"] = {
            "split": str(split),
            **_compared(alone, together, seconds, seconds_together),
            **_traffic(group, lambda run=run: run(models[1], texts[1]), config, sizes, split.ulysses_degree, passes),
        }
    return figures


def _traffic(
    group: GroupManager, run: Callable[[], Any], config: DiTConfig, sizes: Sizes, p: int, passes: int
) -> dict[str, Any]:
    """Bytes that rank 0 sends for a step, and those of its visual all-to-alls: 4 N D_x (p-1)/p^2 elements a block."""
    before = group.use().run(GetStatus())[0].sent
    run()
    sent = group.use().run(GetStatus())[0].sent - before
    frames, rows, columns = sizes.latents
    tokens = frames * rows * columns // config.patch_size**2
    ranks = group.use().size
    passes_of_a_rank = -(-passes * p // ranks)
    elements = config.depth * 4 * tokens * config.hidden_x * (p - 1) / p**2 * passes_of_a_rank
    formula = round(elements * torch.finfo(sizes.dtype).bits / 8)
    return {"bytes sent": sent, "bytes by the formula": formula, "sent / formula": sent / formula if formula else None}


def decoding(one: GroupManager, group: GroupManager, file: Path, sizes: Sizes, repeats: int) -> dict[str, Any]:
    z = _random(1, 12, *sizes.video)
    models = [RemoteVAE(manager, LoadVAE(file, None, sizes.dtype)) for manager in (one, group)]

    def run(model: RemoteVAE) -> Tensor:
        frames: list[Tensor] = []

        def keep(event: Event) -> None:
            if isinstance(event.payload, FramesDecoded):
                frames.append(event.payload.frames)

        finish(model.decode(z), keep)
        return torch.cat(frames, dim=2)

    (alone, seconds), (together, seconds_together) = alternate([lambda m=m: run(m) for m in models], repeats)
    return _compared(alone, together, seconds, seconds_together)


def request_overhead(group: GroupManager, repeats: int) -> dict[str, Any]:
    """One forward request at the published latents: its time without what the slowest rank computes."""
    with least_network() as file:
        dit = RemoteDiT(group, LoadDiT(file, torch.float32, torch.float32))
        text = dit.text(torch.zeros(1, 256, LEAST.text_width), torch.zeros(1, 256, dtype=torch.bool))
        z = _random(*PUBLISHED_LATENTS)
        beyond = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            finish(dit.forward(z, torch.ones(1), [(text, 0)]))
            whole = time.perf_counter() - started
            beyond.append(1000 * (whole - max(dit.seconds)))
    return {"latents": str(PUBLISHED_LATENTS), "first, ms": beyond[0], "later, best, ms": min(beyond[1:])}


@contextmanager
def least_network() -> Iterator[Path]:
    """A denoiser that computes as little as can be, so that the request is seen beside it."""
    sizes = Sizes(LEAST, (1, 2, 2), 0, SMALL.decoder, (1, 2, 2), torch.float32)
    with weight_files(sizes) as (file, _):
        yield file


def alternate(runs: list[Callable[[], Tensor]], repeats: int) -> list[tuple[Tensor, float]]:
    """Each of the runs in turn, after one to warm up: its result and its best time in seconds."""
    results = [run() for run in runs]
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for index, run in enumerate(runs):
            started = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - started)
    return list(zip(results, best, strict=True))


def _compared(alone: Tensor, together: Tensor, seconds: float, seconds_together: float) -> dict[str, float]:
    return {
        "relative error": relative_error(together, alone),
        "seconds, one rank": seconds,
        "seconds, all ranks": seconds_together,
        "speed-up": seconds / seconds_together,
    }


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.group", description=__doc__.split("\n\n")[0])
    parser.add_argument("--gpus", default="2" if not torch.cuda.is_available() else "all", help="how many, or which")
    parser.add_argument("--weights", default="auto", help="replicated, sharded, offloaded (default: %(default)s)")
    parser.add_argument("--dit", type=Path, help="a file of published weights instead of random ones")
    parser.add_argument("--decoder", type=Path, help="likewise")
    parser.add_argument("--repeats", type=int, default=3)
    add_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
