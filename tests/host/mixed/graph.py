"""A prompt in API format that grows node by node, with the loaders of the tiny model in it."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mochi.parallel.settings import TIMEOUT
from tests.exact import relative_error

Link = list
"""[node id, number of the output], as the API wants it."""

TINY = "tiny (built in)"
PROMPT, OTHER = "a red circle moves left on a black background", "a blue square moves up on a white background"
WIDTH, HEIGHT, FRAMES = 48, 32, 13  # small, and all different
SIZE = {"width": WIDTH, "height": HEIGHT, "frames": FRAMES}
STEPS, CFG, SEED = 4, 4.0, 7


@dataclass(frozen=True)
class Output:
    """An output node. It is put into a prompt only when somebody wants what it saves: the host runs every one."""

    kind: str
    inputs: dict[str, Any]


@dataclass
class Graph:
    """`g("KSampler", model=g.model, ...)` adds a node and returns its output.

    comfy: the host, see conftest.py. ranks: of `model` and `vae`; `single` and `single_vae` are in one process.
    """

    comfy: Any
    ranks: int
    prompt: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parallel = {"gpus": "2", "guidance": "auto", "ulysses": 0, "weights": "auto", "timeout": TIMEOUT}
        self.parallel = self("MochiParallelSettings", **parallel)
        self.clip = self("MochiParallelLoadT5", file=TINY, dtype="auto", device="default")
        # All of them in every prompt, used or not: the host forgets what is not in the one that it runs.
        self.single, self.single_vae = self.load(ranks=1), self.load_vae(ranks=1)
        spread = self.load(ranks=2), self.load_vae(ranks=2)
        self.model, self.vae = (self.single, self.single_vae) if self.ranks == 1 else spread
        self.positive, self.other, self.negative = map(self.text, (PROMPT, OTHER, ""))

    def __call__(self, kind: str, /, output: int = 0, **inputs: Any) -> Link:
        number = str(len(self.prompt) + 1)
        self.prompt[number] = {"class_type": kind, "inputs": inputs}
        return [number, output]

    def known(self, kind: str, /, **inputs: Any) -> Link:
        """A node with those of the inputs that it has in this version of the host."""
        names = self.inputs_of(kind)
        return self(kind, **{name: value for name, value in inputs.items() if name in names})

    def info(self, kind: str) -> dict[str, Any]:
        """What the host says of a node; nothing of one that it lacks."""
        return self.comfy.client.object_info(kind).get(kind, {})

    def inputs_of(self, kind: str) -> set[str]:
        inputs = self.info(kind)["input"]
        return {*inputs.get("required", {}), *inputs.get("optional", {})}

    def load(self, file: str = TINY, ranks: int | None = None, **widgets: Any) -> Link:
        inputs = {"parallel": self.parallel} if (ranks or self.ranks) > 1 else {}
        return self("MochiParallelLoadDiT", file=file, dtype="auto", **inputs, **widgets)

    def load_vae(self, ranks: int | None = None) -> Link:
        inputs = {"parallel": self.parallel} if (ranks or self.ranks) > 1 else {}
        return self("MochiParallelLoadVAE", file=TINY, encoder_file="in the file itself", dtype="auto", **inputs)

    def text(self, prompt: str) -> Link:
        return self("MochiParallelTextEncode", clip=self.clip, prompt=prompt)

    def empty(self, batch: int = 1) -> Link:
        return self("EmptyMochiLatentVideo", width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=batch)

    def sigmas(self, steps: int = STEPS) -> Link:
        return self("MochiParallelSigmas", steps=steps, threshold_noise=0.025, linear_steps=0, denoise=1.0)

    def split(self, sigmas: Link, step: int) -> tuple[Link, Link]:
        """The steps of a schedule before `step`, and those behind."""
        high, _ = self("SplitSigmas", sigmas=sigmas, step=step)
        return [high, 0], [high, 1]

    def mochi(self, **changes: Any) -> Link:
        """Mochi Sampler, on the ranks."""
        prompts = {"positive": self.positive, "negative": self.negative}
        widgets = {"seed": SEED, "steps": STEPS, "cfg": CFG, **SIZE, "batch_size": 1}
        return self("MochiParallelSampler", **{"model": self.model, **prompts, **widgets, **changes})

    def ours(self, **changes: Any) -> Link:
        """Mochi Sampler in one process: what the rest is compared with."""
        return self.mochi(**{"model": self.single, **changes})

    def ksampler(self, **changes: Any) -> Link:
        """KSampler, on the ranks, with the widgets that make it do what Mochi Sampler does."""
        prompts = {"positive": self.positive, "negative": self.negative, "latent_image": self.empty()}
        widgets = {"seed": SEED, "steps": STEPS, "cfg": CFG, "denoise": 1.0}
        names = {"sampler_name": "euler", "scheduler": "linear_quadratic"}
        return self("KSampler", **{"model": self.model, **prompts, **widgets, **names, **changes})

    def custom(self, sampler: str = "euler", **changes: Any) -> Link:
        """SamplerCustom, on the ranks, with our sigmas."""
        prompts = {"positive": self.positive, "negative": self.negative, "latent_image": self.empty()}
        how = {"sampler": self("KSamplerSelect", sampler_name=sampler), "sigmas": self.sigmas()}
        widgets = {"add_noise": True, "noise_seed": SEED, "cfg": CFG}
        return self("SamplerCustom", **{"model": self.model, **prompts, **how, **widgets, **changes})

    def guided(self, guider: Link) -> Link:
        """SamplerCustomAdvanced with Euler steps and our sigmas."""
        noise, sampler = self("RandomNoise", noise_seed=SEED), self("KSamplerSelect", sampler_name="euler")
        inputs = {"noise": noise, "guider": guider, "sampler": sampler, "latent_image": self.empty()}
        return self("SamplerCustomAdvanced", sigmas=self.sigmas(), **inputs)

    def decoded(self, latent: Link) -> Link:
        """Frames, by our node in one process."""
        return self("MochiParallelVAEDecode", vae=self.single_vae, samples=latent)

    def encoded(self, images: Link) -> Link:
        """Frames as latents, by our node in one process: so they can be saved and compared in float32."""
        return self("MochiParallelVAEEncode", vae=self.single_vae, pixels=images)

    def frames(self, latent: Link, start: int, length: int) -> Link:
        """Some frames of decoded latents."""
        return self("ImageFromBatch", image=self.decoded(latent), batch_index=start, length=length)

    def run(self, *wanted: Link | Output) -> list[Any]:
        """Queue the graph. Of a LATENT comes its tensor, of an output node the files that it saved."""
        savers = [item if isinstance(item, Output) else latent_file(item) for item in wanted]
        outputs = {f"out{i}": {"class_type": saver.kind, "inputs": saver.inputs} for i, saver in enumerate(savers)}
        told = self.comfy.client.run(self.prompt | outputs, timeout=300).history["outputs"]
        saved = [self._paths(told.get(number, {})) for number in outputs]
        return [
            paths if isinstance(item, Output) else load_file(paths[0])["latent_tensor"]
            for item, paths in zip(wanted, saved, strict=True)
        ]

    def _paths(self, told: dict[str, list]) -> list[Path]:
        files = [file for files in told.values() for file in files if isinstance(file, dict) and "filename" in file]
        return [self.comfy.base / file["type"] / file["subfolder"] / file["filename"] for file in files]


def latent_file(link: Link) -> Output:
    return Output("SaveLatent", {"samples": link, "filename_prefix": "mixed/latent"})


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The relative error of a; infinite where a has another shape, and where either is not finite."""
    if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
        return math.inf
    return relative_error(a, b)
