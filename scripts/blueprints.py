"""The blueprints of the pack: Mochi in one node, from the editor's node library."""

from scripts.blueprint_format import Blueprint
from scripts.edit_workflows import mochi_video_to_video
from scripts.image_workflows import mochi_image_to_video
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


def image_to_video() -> Blueprint:
    graph = inside(mochi_image_to_video(), "Image to Video (Mochi)", "picture")
    size = {name: [("given", name)] for name in ("frame", "strength", "width", "height", "frames")}
    sampling = {name: [("sampler", name)] for name in ("seed", "steps", "cfg")}
    words = {"prompt": [("positive", "prompt")], "negative_prompt": [("negative", "prompt")]}
    return Blueprint(
        graph,
        {"image": [("given", "image")], **words, **size, **sampling, **FILES},
        Link("video"),
        "Makes a video that starts with a picture, or has it in another frame, with a Mochi that was trained so "
        "(Pusa V0.5).",
        ["image to video", "mochi", "i2v", "pusa", "animate"],
    )


def inside(graph: Graph, name: str, file: str = "file") -> Graph:
    """A workflow's nodes from the loaders to a VIDEO, which the built-in nodes and ours can save.

    file: the node that loads what the blueprint is given.
    """
    for outside in ("note", file, "save"):
        graph.nodes.pop(outside, None)
    for node in graph.nodes.values():
        node.inputs = {key: value for key, value in node.inputs.items() if value != Link(file)}
    graph.nodes["video"] = Node("CreateVideo", {"images": Link("decode"), "fps": 30.0})
    graph.groups = [*graph.groups[1:-1], Group("Video", ["decode", "video"])]
    graph.name = name
    return graph


BLUEPRINTS = (text_to_video, video_to_video, image_to_video)
