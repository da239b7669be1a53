"""What each setting does to clips of the tiny model: `python -m benchmarks.quality [group ...] [--json]`.

In a group one setting differs from the default run, on the same held-out prompts and the same noise. Columns: how many
clips a judge sees to be as their prompt says, in all four attributes; sharpness, flicker and stray colours, see
looks.py; where only the weights differ, the distance from the default's clips. docs/quality.md says what it means for
the published model.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.looks import flicker, psnr, sharpness, stray
from benchmarks.report import Figures, add_option, report
from mochi.checkpoint import Checkpoint
from mochi.config import TINY, TINY_WEIGHTS
from mochi.model_dir import find_model
from mochi.pipeline import GenerateSettings, Pipeline, load_pipeline
from tests.checkpoint.writers import gguf
from tiny.captions import held_out_prompts, with_fillers
from tiny.clips import BACKGROUNDS, COLOURS, Scene, draw
from tiny.evaluate import FIRST_SEED, contact_sheet
from tiny.sample import obeyed

STEPS, CFG = TINY.defaults.steps, TINY.defaults.cfg
PROMPTS_SEED = 2024
DEFAULT = "default"
USUAL = f"{TINY.defaults.width} x {TINY.defaults.height}, {TINY.defaults.frames} frames, {STEPS} steps, cfg {CFG:g}"
Described = tuple[str, Scene]


def keywords(prompt: str, scene: Scene) -> str:
    """A scene without its sentence."""
    return ", ".join((scene.colour, scene.shape, scene.direction, scene.background))


def wordy(prompt: str, scene: Scene) -> str:
    """The prompt with words strewn in that say nothing, three times as many as in training."""
    generator = np.random.default_rng(PROMPTS_SEED)
    for _ in range(3):
        prompt = with_fillers(prompt, generator)
    return prompt


@dataclass(frozen=True)
class Run:
    """One row: what differs from the default run.

    Attributes:
        chosen: settings of the video.
        dtype, quantised: of the weights: a dtype of all networks, or a kind of GGML's blocks of the denoiser's.
        words: what is written for a prompt.
    """

    chosen: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    quantised: str | None = None
    words: Callable[[str, Scene], str] | None = None

    @property
    def has_other_weights(self) -> bool:
        return self.dtype != torch.float32 or self.quantised is not None


def rising(low: float, high: float, steps: int = STEPS) -> list[float]:
    """Guidance that goes evenly from the first step's to the last one's."""
    return np.linspace(low, high, steps).tolist()


def sized(width: int, height: int) -> Run:
    return Run({"width": width, "height": height})


GROUPS: dict[str, dict[str, Run]] = {
    "steps": {f"{n} steps": Run({"steps": n}) for n in (4, 8, 32, 64)},
    "cfg": {f"cfg {scale:g}": Run({"cfg": scale}) for scale in (1.0, 2.0, 6.0, 10.0)}
    | {"cfg 2 to 8": Run({"cfg": rising(2, 8)}), "cfg 8 to 1": Run({"cfg": rising(8, 1)})},
    "size": {f"{w} x {h}": sized(w, h) for w, h in ((48, 48), (96, 96), (96, 64), (64, 96))},
    "frames": {f"{n} frames": Run({"frames": n}) for n in (13, 37)},
    "weights": {
        "bfloat16": Run(dtype=torch.bfloat16),
        "float8": Run(dtype=torch.float8_e4m3fn),
        "Q8_0": Run(quantised="Q8_0"),
        "Q5_0": Run(quantised="Q5_0"),
        "Q4_0": Run(quantised="Q4_0"),
    },
    "prompt": {"keywords only": Run(words=keywords), "many more words": Run(words=wordy)},
    "stg": {"stg 1": Run({"stg": 1.0}), "stg 2": Run({"stg": 2.0}), "cfg 1, stg 1": Run({"cfg": 1.0, "stg": 1.0})},
    "schedule": {
        # A threshold of half the noise at half the steps is a straight line.
        "linear": Run({"threshold_noise": 0.5, "linear_steps": STEPS // 2}),
        "distilled": Run({"threshold_noise": 0.1, "linear_steps": STEPS * 3 // 4}),
        "distilled, 8 steps": Run({"threshold_noise": 0.1, "linear_steps": 6, "steps": 8}),
    },
}
SHEET = (DEFAULT, "4 steps", "cfg 1", "cfg 10", "48 x 48", "96 x 96", "Q4_0")


class Maker:
    """Makes the clips of a run; its pipelines, of one kind of weights each, are kept."""

    def __init__(self, prompts: Sequence[Described], folder: Path):
        self.prompts, self.folder = prompts, folder
        self.pipeline = cache(self._load)

    def clips(self, run: Run) -> list[np.ndarray]:
        """A clip (F, H, W, 3) in [0, 1] for each prompt."""
        pipeline = self.pipeline(run.dtype, run.quantised)
        return [self._clip(pipeline, run, seed, *prompt) for seed, prompt in enumerate(self.prompts, FIRST_SEED)]

    def _clip(self, pipeline: Pipeline, run: Run, seed: int, prompt: str, scene: Scene) -> np.ndarray:
        text = run.words(prompt, scene) if run.words else prompt
        settings = GenerateSettings.of(TINY.defaults, prompt=text, seed=seed, **run.chosen)
        return torch.cat(list(pipeline.generate(settings))).float().numpy()

    def _load(self, dtype: torch.dtype, quantised: str | None) -> Pipeline:
        model = find_model()
        if quantised is not None:
            file = gguf(self.folder, load_file(TINY_WEIGHTS / "dit.safetensors"), quantised)
            model = replace(model, dit=Checkpoint.open(file))
        return load_pipeline(model, dtype=None if quantised else dtype, device="cpu")


def row(clips: Sequence[np.ndarray], scenes: Sequence[Scene]) -> dict[str, Any]:
    """What is measured of any clips."""
    colours = [(BACKGROUNDS[scene.background], COLOURS[scene.colour]) for scene in scenes]
    return {
        "as the prompt says": f"{obeyed(clips, scenes).all(1).sum()} of {len(clips)}",
        "sharpness": float(np.mean(list(map(sharpness, clips)))),
        "flicker": float(np.mean(list(map(flicker, clips)))),
        "stray %": float(np.mean(list(map(stray, clips, colours)))),
        "PSNR dB": None,
    }


def measure(
    runs: Mapping[str, Run],
    prompts: Sequence[Described],
    chosen: Mapping[str, Any] | None = None,
    sheet: Path | None = None,
) -> Figures:
    """The default run, and others beside it.

    chosen: settings that the default run has in place of the model's own.
    sheet: where a picture of some runs is written.
    """
    scenes = [scene for _, scene in prompts]
    figures = {"as drawn": row([draw(scene) for scene in scenes], scenes)}
    first: dict[str, np.ndarray] = {}
    with TemporaryDirectory() as folder:
        maker = Maker(prompts, Path(folder))
        default = Run(chosen or {})
        usual = maker.clips(default)
        for name, run in {DEFAULT: default, **runs}.items():
            clips = usual if run is default else maker.clips(run)
            figures[name], first[name] = row(clips, scenes), clips[0]
            if run.has_other_weights:
                figures[name]["PSNR dB"] = psnr(clips, usual)
    if sheet is not None:
        names = [name for name in SHEET if name in first]
        picture = contact_sheet([first[name] for name in names], names)
        picture.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(sheet, optimize=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality")
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--prompts", type=int, default=24, help="clips of each row (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--sheet", type=Path, help="write a picture of some rows here")
    add_option(parser)
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"there is no group {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    prompts = held_out_prompts(options.prompts, PROMPTS_SEED)
    runs = {name: run for group in options.groups or GROUPS for name, run in GROUPS[group].items()}
    report(f"benchmarks.quality: {DEFAULT} is {USUAL}", measure(runs, prompts, sheet=options.sheet), options.json)


if __name__ == "__main__":
    main()
