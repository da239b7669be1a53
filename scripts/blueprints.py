"""The blueprints of the pack: Mochi in one node, from the editor's node library."""

from scripts.blueprint_format import Blueprint
from scripts.edit_workflows import mochi_video_to_video
from scripts.text_workflows import mochi_text_to_video
from scripts.workflow_format import Graph, Group, Link, Node

FILES = {
    "t5_file": [("t5", "file")],
    "dit_file": [("dit", "file")],
    "vae_file": [("vae", "file")],
    "gpus": [("dit", "gpus"), ("vae", "gpus")],
}


def text_to_video() -> Blueprint:
    graph = inside(mochi_text_to_video(), "Text to Video (Mochi)")
    sampling = {name: [("sampler", name)] for name in ("width", "height", "frames", "seed", "steps", "cfg")}
    return Blueprint(
        graph,
        {"prompt": [("positive", "prompt")], "negative_prompt": [("negative", "prompt")], **sampling, **FILES},
        Link("video"),
        "Makes a video from words with Mochi 1, on one GPU or over several.",
        ["text to video", "mochi", "t2v"],
    )


def video_to_video() -> Blueprint:
    graph = inside(mochi_video_to_video(), "Video to Video (Mochi)")
    sampling = {name: [("sampler", name)] for name in ("denoise", "seed", "steps", "cfg")}
    size = {"width": [("scale", "width")], "height": [("scale", "height")], "frames": [("first", "length")]}
    words = {"prompt": [("positive", "prompt")], "negative_prompt": [("negative", "prompt")]}
    return Blueprint(
        graph,
        {"video": [("parts", "video")], **words, **sampling, **size, **FILES},
        Link("video"),
        "Makes a clip anew with Mochi 1: denoise says how much of it. Frames are 6k + 1 that the clip has.",
        ["video to video", "mochi", "v2v", "restyle"],
    )


def inside(graph: Graph, name: str) -> Graph:
    """A workflow's nodes from the loaders to a VIDEO, which the built-in nodes and ours can save."""
    for outside in ("note", "file", "save"):
        graph.nodes.pop(outside, None)
    for node in graph.nodes.values():
        node.inputs = {key: value for key, value in node.inputs.items() if value != Link("file")}
    graph.nodes["video"] = Node("CreateVideo", {"images": Link("decode"), "fps": 30.0})
    graph.groups = [*graph.groups[1:-1], Group("Video", ["decode", "video"])]
    graph.name = name
    return graph


BLUEPRINTS = (text_to_video, video_to_video)
