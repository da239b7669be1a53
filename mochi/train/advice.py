"""What a person is told of the memory that a training run takes, and what to choose where it does not fit."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from ..advice import FILES
from ..geometry import SPACE, frame_count
from ..memory import GB, in_gb, weight_bytes
from .memory import Training

BESIDE = ("LoRA", "kept activations", "a block at its peak")
"""Parts of the need that are named."""


def forecast(run: Training) -> str:
    """One sentence on what a step takes on each device."""
    need, batch = run.need, run.latents[0]
    named = {name: need.parts[name] for name in ("weights", *BESIDE)}
    parts = ", ".join(f"{in_gb(size)} {name}" for name, size in named.items() if size >= GB / 20) or "next to nothing"
    host = f"; in the machine's memory {in_gb(run.host)} of weights" if run.host else ""
    clips = f"{batch} clips" if batch > 1 else "a clip"
    return f"memory for {clips} of {_size(run)}: about {in_gb(need.total)} on each device ({parts}){host}"


def complaint(run: Training, free: int) -> str | None:
    """None where training fits; else one sentence on what it needs, what there is, and what to choose instead.

    free: bytes that a device has for weights and all else.
    """
    if run.fits(free):
        return None
    lean = replace(run, recompute="blocks", sharding="offloaded")
    found = list(_alternatives(run, free)) or [f"{way} with {_LEAN}" for way in _alternatives(lean, free)]
    if lean.fits(free) and not any("weights" in way or "recompute" in way for way in found):
        found.append(_LEAN)
    *most, last = found or ["a smaller width and height"]
    return (
        f"training on clips of {_size(run)} needs about {in_gb(run.need.total)} on each device, which has "
        f"{in_gb(free)} for it; choose {', '.join(most)}{' or ' if most else ''}{last}"
    )


_LEAN = "offloaded weights and recomputed blocks"


def _size(run: Training) -> str:
    height, width = run.latents[3:]
    return f"{width * SPACE} x {height * SPACE}, {frame_count(run.latent_frames)} frames"


def _alternatives(run: Training, free: int) -> Iterator[str]:
    """Settings that would fit, one change at a time."""
    frames, batch = run.longest(run.latent_frames - 1, free), run.latents[0]
    if frames > 1:
        yield f"{frame_count(frames)} frames or fewer"
    if batch > 1 and replace(run, latents=(1, *run.latents[1:])).fits(free):
        yield "a batch of 1"
    if run.recompute != "blocks" and replace(run, recompute="blocks").fits(free):
        yield "recomputed blocks"
    for title, quant in FILES.items():
        with suppress(ValueError):  # blocks that do not divide the network's rows
            size = weight_bytes(run.config, quant, run.compute)
            if size < run.weights and replace(run, weights=size).fits(free):
                yield f"a smaller file of weights ({title}, {in_gb(size)})"
                break
    if run.sharding == "replicated" and run.mates > 1 and replace(run, sharding="sharded").fits(free):
        yield "sharded weights"
    elif run.sharding != "offloaded" and replace(run, sharding="offloaded").fits(free):
        yield f"offloaded weights ({in_gb(run.weights)} in the machine's memory)"
    spread = "sharded" if run.sharding == "replicated" else run.sharding
    for gpus in (2, 4, 8):
        is_split = gpus > run.ulysses and run.config.num_heads % gpus == 0
        shared = replace(run, ulysses=gpus, mates=max(gpus, run.mates), ranks=max(gpus, run.ranks), sharding=spread)
        if is_split and shared.fits(free):
            yield f"{gpus} GPUs that share each clip (ulysses {gpus}, {spread} weights)"
            break
