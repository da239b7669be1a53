"""Beside ComfyUI-MochiWrapper, which has two of the ids that our nodes had in earlier releases."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.client import ComfyClient
from scripts.comfyui import PACK_NAME, PROJECT, prepare_base
from scripts.server import ComfyServer

pytestmark = pytest.mark.host
OLD_GRAPH = PROJECT / "tests" / "host" / "inside" / "compatibility" / "api" / "tiny_text_to_video.json"
# Their ids, inputs and outputs, and a node that ends a graph.
THEIRS = """
class MochiTextEncode:
    CATEGORY, FUNCTION, RETURN_TYPES = "MochiWrapper", "run", ("CONDITIONING", "CLIP")
    @classmethod
    def INPUT_TYPES(cls):
        prompt = ("STRING", {"default": "", "multiline": True})
        return {"required": {"prompt": prompt}, "optional": {"strength": ("FLOAT",), "force_offload": ("BOOLEAN",)}}
    def run(self, prompt, strength=1.0, force_offload=True):
        return "theirs: " + prompt, None

class MochiSampler:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "MochiWrapper", "run", ("LATENT",), True
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"positive": ("CONDITIONING",), "num_frames": ("INT", {"default": 49})}}
    def run(self, positive, num_frames):
        return {"ui": {"text": [f"{positive}, {num_frames} frames"]}, "result": ({},)}

NODE_CLASS_MAPPINGS = {"MochiSampler": MochiSampler, "MochiTextEncode": MochiTextEncode}
NODE_DISPLAY_NAME_MAPPINGS = {"MochiSampler": "Mochi Sampler", "MochiTextEncode": "Mochi TextEncode"}
"""
THEIR_GRAPH = {
    "1": {"class_type": "MochiTextEncode", "inputs": {"prompt": "a cat", "strength": 1.0, "force_offload": True}},
    "2": {"class_type": "MochiSampler", "inputs": {"positive": ["1", 0], "num_frames": 7}},
}


def install(custom: Path, first: bool) -> None:
    """Put their pack where ComfyUI finds it before ours, or behind it: it loads packs as the file system lists them."""
    for number in range(1000):
        theirs = custom / f"other {number}"
        theirs.mkdir()
        listed = os.listdir(custom)
        if (listed.index(theirs.name) < listed.index(PACK_NAME)) is first:
            (theirs / "__init__.py").write_text(THEIRS)
            return
        theirs.rmdir()
    pytest.skip("this file system lists folders in an order of its own")


@pytest.fixture(scope="module", params=[True, False], ids=["theirs first", "ours first"])
def server(request: pytest.FixtureRequest, comfyui_path: Path, tmp_path_factory) -> Iterator[ComfyServer]:
    base = prepare_base(tmp_path_factory.mktemp("two packs"))
    install(base / "custom_nodes", request.param)
    with ComfyServer(comfyui_path, base, cpu=True) as server:
        yield server


def test_a_graph_of_each_runs(server: ComfyServer):
    """Ours is one that was saved when our nodes had the ids that are theirs."""
    client = ComfyClient(server.url)
    (video,) = client.run(json.loads(OLD_GRAPH.read_text(encoding="utf-8")), timeout=300).paths(server.base / "output")
    assert video.stat().st_size > 1000
    said = client.run(THEIR_GRAPH).history["outputs"]["2"]["text"]
    assert said == ["theirs: a cat, 7 frames"]
