"""How much of a video's time is spent outside the networks, and outside their products, in the tiny model on a CPU.

Products are what a network cannot do without: matrix products, convolutions and attention. All else is norms and other
elementwise work, what surrounds the operations, and the making of the mp4 file. The smaller a model, the larger its
share; in the built-in one it is at its largest.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.report import Figures
from mochi.pipeline import GenerateSettings, Pipeline, load_pipeline
from mochi.video import VideoWriter

PRODUCTS = {
    *("aten.linear", "aten.matmul", "aten.einsum", "aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm"),
    *("aten.conv2d", "aten.conv3d", "aten.convolution", "aten.mkldnn_convolution"),
    *("aten.scaled_dot_product_attention", "aten._scaled_dot_product_flash_attention_for_cpu"),
}
"""Operations of torch that compute products, whole or in parts: where one calls another, only the outer one counts."""

PROMPT = "a red circle moves left on a black background"


class Video:
    """A video of the tiny model, made as the command line makes it; each with another seed."""

    def __init__(self, folder: Path):
        self.pipeline: Pipeline = load_pipeline(device="cpu")
        self.seed = 0
        self._file = folder / "video.mp4"

    def settings(self, prompt: str = PROMPT) -> GenerateSettings:
        self.seed += 1
        return GenerateSettings.of(self.pipeline.config.defaults, prompt=prompt, seed=self.seed)

    def latents(self, settings: GenerateSettings) -> Tensor:
        return self.pipeline.denoise(settings)

    def save(self, latents: Tensor, settings: GenerateSettings) -> None:
        with VideoWriter(self._file, settings.fps, (settings.width, settings.height)) as video:
            for frames in self.pipeline.decode(latents, as_bytes=True):
                video.write(frames)

    def make(self, prompt: str = PROMPT) -> None:
        settings = self.settings(prompt)
        self.save(self.latents(settings), settings)


class InProducts(TorchDispatchMode):
    """Sums up the time in PRODUCTS. It slows down everything else, so that nothing but this sum is of use.

    torch's profiler is not for this: it takes many times as long as the work, and leaves the process slower.
    """

    def __init__(self):
        super().__init__()
        self.seconds, self.seen = 0.0, set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(operation.overloadpacket)
        started = time.perf_counter()
        out = operation(*args, **(kwargs or {}))
        if name in PRODUCTS:
            self.seconds += time.perf_counter() - started
            self.seen.add(name)
        return out


@contextmanager
def in_networks(pipeline: Pipeline) -> Iterator[list[float]]:
    """Seconds of the passes of T5, AsymmDiT and decoder, one by one: all but sampling, saving and what holds them."""
    taken: list[float] = []

    def timed(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        out = work(*args, **kwargs)
        taken.append(time.perf_counter() - started)
        return out

    dit, decoder = pipeline.denoiser.dit, pipeline.decoder.decoder
    with ExitStack() as stack:
        passes = ((pipeline.text.model, "forward"), (dit, "forward"), (dit, "encode_text"))
        for network, name in (*passes, (decoder, "_deep"), (decoder, "_shallow")):
            stack.enter_context(patch.object(network, name, partial(timed, getattr(network, name))))
        yield taken


def product_seconds(work: Callable[[], object]) -> float:
    """Seconds of `work` inside PRODUCTS."""
    with InProducts() as products:
        work()
    return products.seconds


def measure(options: argparse.Namespace) -> Figures:
    """Medians over runs after the first. Time in products is of runs of their own, in turns with the others."""
    with TemporaryDirectory(prefix="mochi-benchmark-") as folder:
        video = Video(Path(folder))
        video.make()
        whole: dict[str, list[float]] = {"prompt to latents": [], "latents to mp4": []}
        products: dict[str, list[float]] = {name: [] for name in whole}
        networks: dict[str, list[float]] = {name: [] for name in whole}
        for _ in range(options.repeats):
            for watched in (False, True):
                settings, made = video.settings(), []
                works = (
                    lambda settings=settings, made=made: made.append(video.latents(settings)),
                    lambda settings=settings, made=made: video.save(made[0], settings),
                )
                for name, work in zip(whole, works, strict=True):
                    if watched:
                        products[name].append(product_seconds(work))
                    else:
                        with in_networks(video.pipeline) as passes:
                            whole[name].append(seconds(work))
                        networks[name].append(sum(passes))
    every = (whole, networks, products)
    for figures in every:
        figures["prompt to mp4"] = [sum(parts) for parts in zip(*figures.values(), strict=True)]
    return {name: shares(*(statistics.median(figures[name]) for figures in every)) for name in whole}


def shares(whole: float, networks: float, products: float) -> dict[str, float]:
    """Seconds in all, in networks' passes and in products -> these, and the shares of all else."""
    return {
        "median s": whole,
        "networks s": networks,
        "products s": products,
        "outside networks %": 100 * (1 - networks / whole),
        "outside products %": 100 * (1 - products / whole),
    }


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
