"""The nodes that the shipped workflows are made of, with the values that fit."""

from mochi.hub.catalog import PUBLISHED
from scripts.workflow_format import NOTE, Group, Link, Node

GREEN, BLUE, YELLOW = ("#232", "#353"), ("#223", "#335"), ("#432", "#653")

TINY = "tiny (built in)"
TINY_PROMPT = "a red circle moves left on a black background"


def note(text: str, height: int) -> Node:
    return Node(NOTE, {"text": text}, width=340, height=height, title="Note", colours=YELLOW)


def download(name: str) -> list[dict[str, str]]:
    """The hint by which the editor offers to download a model that is not there."""
    published = PUBLISHED[name]
    url = f"https://huggingface.co/{published.repository}/resolve/main/{published.file}?download=true"
    return [{"name": published.name, "url": url, "directory": published.folder}]


def loaders(t5: str, dit: str, vae: str, **parallel: str | Link) -> dict[str, Node]:
    """The three loaders. `parallel` is `gpus`, or a link from Mochi Parallel Settings."""
    parallel = {"gpus": "1", **parallel}
    ways = {"attention": "sdpa", "compile": False, "variant": "auto"}
    vae_values = {"file": vae, "encoder_file": "in the file itself", "dtype": "auto"}
    return {
        "t5": Node("MochiParallelLoadT5", {"file": t5, "dtype": "auto", "device": "default"}),
        "dit": Node("MochiParallelLoadDiT", {"file": dit, "dtype": "auto", **parallel, **ways}),
        "vae": Node("MochiParallelLoadVAE", {**vae_values, **parallel}),
    }


def prompts(kind: str, widget: str, positive: str, height: int = 140) -> dict[str, Node]:
    return {
        "positive": Node(kind, {"clip": Link("t5"), widget: positive}, 400, height, "Prompt", GREEN),
        "negative": Node(kind, {"clip": Link("t5"), widget: ""}, 400, height, "Negative prompt", BLUE),
    }


def sampler(seed: int, steps: int, cfg: float, width: int, height: int, frames: int) -> Node:
    links = {"model": Link("dit"), "positive": Link("positive"), "negative": Link("negative")}
    size = {"width": width, "height": height, "frames": frames, "batch_size": 1}
    return Node(
        "MochiParallelSampler",
        {**links, "seed": seed, "steps": steps, "cfg": cfg, **size, "cfg_schedule": "", "schedule": "mochi"}
        | {"denoise": 1.0, "stg_scale": 0.0, "stg_layers": "34"},
        height=800,
    )


def decode(samples: str = "sampler") -> Node:
    return Node(
        "MochiParallelVAEDecode", {"vae": Link("vae"), "samples": Link(samples), "chunk": 0, "tile": 0}, height=200
    )


def encode(pixels: str) -> Node:
    return Node("MochiParallelVAEEncode", {"vae": Link("vae"), "pixels": Link(pixels)})


def save(fps: float, prefix: str, width: int, height: int, images: str = "decode") -> Node:
    values = {"fps": fps, "format": "mp4", "quality": 70, "filename_prefix": prefix}
    return Node("MochiParallelSaveVideo", {"images": Link(images), **values}, width, height)


def columns(note_title: str) -> list[Group]:
    return [
        Group(note_title, ["note"]),
        Group("Models", ["parallel", "t5", "dit", "vae"]),
        Group("Prompts", ["positive", "negative"]),
        Group("Sampling", ["size", "sampler"]),
        Group("Video", ["decode", "save", "status"]),
    ]
