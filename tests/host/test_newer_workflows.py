"""The workflows with built-in nodes that an older ComfyUI does not have, with toy models whose effect is known."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from scripts.client import PromptRejected
from scripts.newer_workflows import mochi_prompt_enhancement, mochi_upscale_and_interpolate
from scripts.workflow_parts import TINY, TINY_PROMPT
from tests.host.conftest import Comfy
from tests.host.test_server import API_WORKFLOWS, skip_where_it_lacks_nodes
from tiny.judge import judge

Api = dict[str, dict]
SAVE, DECODE, SAMPLER = "MochiParallelSaveVideo", "MochiParallelVAEDecode", "MochiParallelSampler"
FRAMES = 7
FILE_WIDGETS = {
    "CLIPLoader": "clip_name",
    "UpscaleModelLoader": "model_name",
    "FrameInterpolationModelLoader": "model_name",
}


def workflow(name: str) -> Api:
    return json.loads((API_WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def one(graph: Api, kind: str) -> str:
    (number,) = (number for number, node in graph.items() if node["class_type"] == kind)
    return number


def made_tiny(graph: Api, **sampling: object) -> Api:
    """The same graph with the tiny model."""
    for node in graph.values():
        if node["class_type"].startswith("MochiParallelLoad"):
            node["inputs"]["file"] = TINY
        if node["class_type"] == SAMPLER:
            node["inputs"] |= {"cfg": 4.0, "width": 64, "height": 64, "frames": FRAMES, "steps": 2} | sampling
    return graph


def without(graph: Api, kind: str, image: str) -> None:
    """Take a node out, and give its image to whom it gave its own."""
    number = one(graph, kind)
    before = graph.pop(number)["inputs"][image]
    for node in graph.values():
        node["inputs"] |= {name: before for name, value in node["inputs"].items() if value == [number, 0]}


def copying_upscaler(scale: int) -> dict[str, torch.Tensor]:
    """RealESRGAN's compact network without weights: it adds nothing to the pixels, each of which it repeats."""
    shapes = {"body.0.weight": (4, 3, 3, 3), "body.0.bias": (4,), "body.1.weight": (4,)}
    shapes |= {"body.2.weight": (3 * scale**2, 4, 3, 3), "body.2.bias": (3 * scale**2,)}
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def averaging_interpolator() -> dict[str, torch.Tensor]:
    """RIFE's network without weights: nothing moves, and what is between two frames is their mean."""
    head, width = 4, 8
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (out, into, size) in enumerate(((16, 3, 3), (16, 16, 3), (16, 16, 3))):
        shapes |= {f"encode.cnn{layer}.weight": (out, into, size, size), f"encode.cnn{layer}.bias": (out,)}
    shapes |= {"encode.cnn3.weight": (16, head, 4, 4), "encode.cnn3.bias": (head,)}
    for block in range(5):
        name, into = f"block{block}", 7 + 2 * head if block == 0 else 20 + 2 * head
        shapes |= {f"{name}.conv0.0.0.weight": (width // 2, into, 3, 3), f"{name}.conv0.0.0.bias": (width // 2,)}
        shapes |= {f"{name}.conv0.1.0.weight": (width, width // 2, 3, 3), f"{name}.conv0.1.0.bias": (width,)}
        for layer in range(8):
            part = f"{name}.convblock.{layer}"
            shapes |= {f"{part}.conv.weight": (width, width, 3, 3), f"{part}.conv.bias": (width,)}
            shapes |= {f"{part}.beta": (1, width, 1, 1)}
        shapes |= {f"{name}.lastconv.0.weight": (width, 52, 4, 4), f"{name}.lastconv.0.bias": (52,)}
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def pictures(output: Path, prefix: str) -> np.ndarray:
    """The saved PNGs of a prefix, as levels (F, H, W, 3)."""
    return np.stack([np.asarray(Image.open(file), int) for file in sorted(output.glob(f"{prefix}*/*.png"))])


@pytest.mark.parametrize("interpolated", [True, False], ids=["whole", "upscaling alone"])
def test_frames_get_larger_and_more(comfy: Comfy, interpolated: bool):
    """An older host runs it without frame interpolation, as its note says."""
    graph = made_tiny(workflow("mochi_upscale_and_interpolate"), seed=1 + interpolated)
    models = {"upscale_models": (one(graph, "UpscaleModelLoader"), copying_upscaler(4))}
    if interpolated:
        skip_where_it_lacks_nodes(comfy, mochi_upscale_and_interpolate())
        models["frame_interpolation"] = one(graph, "FrameInterpolationModelLoader"), averaging_interpolator()
    else:
        without(graph, "FrameInterpolate", "images")
        del graph[one(graph, "FrameInterpolationModelLoader")]
    for folder, (loader, weights) in models.items():
        (comfy.models / folder).mkdir(parents=True, exist_ok=True)
        save_file(weights, comfy.models / folder / f"toy_{folder}.safetensors")
        graph[loader]["inputs"]["model_name"] = f"toy_{folder}.safetensors"
    video = graph[one(graph, SAVE)]
    for name, images in (("larger", video["inputs"]["images"]), ("plain", [one(graph, DECODE), 0])):
        inputs = video["inputs"] | {"format": "png", "images": images, "filename_prefix": f"{name}_{interpolated}"}
        graph[name] = {"class_type": SAVE, "inputs": inputs}

    paths = comfy.client.run(graph, timeout=300).paths(comfy.output)
    plain, larger = (pictures(comfy.output, f"{name}_{interpolated}") for name in ("plain", "larger"))
    assert plain.shape == (FRAMES, 64, 64, 3) and plain.std() > 10
    expected = plain.repeat(2, axis=1).repeat(2, axis=2)
    assert np.abs(larger[:: 1 + interpolated] - expected).max() <= 1
    if interpolated:
        assert np.abs(larger[1::2] - (expected[1:] + expected[:-1]) / 2).max() <= 1
    (file,) = (path for path in paths if path.suffix == ".mp4")
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(60) and (stream.width, stream.height) == (128, 128)


def test_the_rate_is_that_of_the_frames():
    graph = workflow("mochi_upscale_and_interpolate")
    multiplier = graph[one(graph, "FrameInterpolate")]["inputs"]["multiplier"]
    assert graph[one(graph, SAVE)]["inputs"]["fps"] == multiplier * workflow_fps("mochi_text_to_video")


def workflow_fps(name: str) -> float:
    graph = workflow(name)
    return graph[one(graph, SAVE)]["inputs"]["fps"]


def test_a_prompt_that_another_node_writes_is_obeyed(comfy: Comfy):
    """The language model is too large for a test: its answer stands in for it, joined as the question to it is."""
    graph = made_tiny(workflow("mochi_prompt_enhancement"), steps=16, frames=25, seed=1)
    first, rest = TINY_PROMPT.split(" moves ")
    asked, written = one(graph, "StringConcatenate"), one(graph, "TextGenerate")
    graph[asked]["inputs"] |= {"string_a": first, "delimiter": " moves "}
    graph[one(graph, "PrimitiveStringMultiline")]["inputs"]["value"] = rest
    for node in graph.values():
        node["inputs"] |= {name: [asked, 0] for name, value in node["inputs"].items() if value == [written, 0]}
    del graph[written], graph[one(graph, "CLIPLoader")]
    result = comfy.client.run(graph, timeout=300)
    (file,) = (path for path in result.paths(comfy.output) if path.suffix == ".mp4")
    with av.open(str(file)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]) / 255
    verdict = judge(frames)
    assert (verdict.colour, verdict.shape, verdict.direction) == ("red", "circle", "left")
    assert [TINY_PROMPT] in [shown.get("text") for shown in result.history["outputs"].values()]


@pytest.mark.parametrize("description", [mochi_upscale_and_interpolate, mochi_prompt_enhancement])
def test_nothing_is_wrong_but_that_models_are_not_there(comfy: Comfy, description):
    graph = description()
    skip_where_it_lacks_nodes(comfy, graph)
    with pytest.raises(PromptRejected) as refusal:
        comfy.client.queue(workflow(graph.name))
    complained = {
        (problem["class_type"], error["extra_info"]["input_name"])
        for problem in refusal.value.details["node_errors"].values()
        for error in problem["errors"]
    }
    loaders = {node.kind for node in graph.nodes.values() if node.models}
    assert complained == {(kind, FILE_WIDGETS.get(kind, "file")) for kind in loaders}
