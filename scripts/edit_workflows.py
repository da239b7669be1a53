"""The shipped workflows that make a video from a video."""

from scripts.text_workflows import mochi_text_to_video, tiny_text_to_video
from scripts.workflow_format import Graph, Group, Link, Node
from scripts.workflow_parts import GREEN, TINY_PROMPT, decode, encode, note, save

TINY_VIDEO_NOTE = """## A clip made anew

The **tiny model** makes a clip, whose frames are encoded and sampled again with another prompt.

- **denoise** says how much of it is made anew: 1 all of it; towards 0 more stays.
- Mochi's own schedule keeps much noise for long: even at 0.5 the start is 97 % noise. The published model's template is
  **mochi_video_to_video**, which loads a file.
"""

TINY_EDIT_NOTE = """## A clip edited by its words

The **tiny model** makes a clip. **Mochi Invert** follows the model backwards to the noise that the clip could have come
from; **Mochi Resample** starts there with another prompt.

- *strength* and *end* say how long and how strongly the clip guides the new one.
- The published model's template is **mochi_edit**, which loads a file.
"""

VIDEO_NOTE = """## A clip made anew with Mochi 1

Choose your clip in **Load Video**: its first 163 frames are cut to 848 x 480 and encoded.

- A shorter clip: set *length* to 6k + 1 frames that it has (25, 61, 121, ...).
- **denoise** in Mochi Sampler says how much is made anew. Mochi's own schedule keeps much noise for long: even at 0.5
  the start is 97 % noise. Try 0.2 to 0.6.
- Describe the whole scene, not only what changes.
- The models are those of **mochi_text_to_video**.
"""

EDIT_NOTE = """## A clip edited by its words with Mochi 1

Choose your clip in **Load Video**. Describe it as it is in *Prompt of the clip*, and as you want it in *New prompt*, in
the same words but for the change.

- A shorter clip: set *length* to 6k + 1 frames that it has (25, 61, 121, ...).
- *end* in Mochi Resample: the later, the more stays as it was. *strength* 0 lets the noise alone remember the clip.
- The way back takes half of what a run of as many steps takes.
- The models are those of **mochi_text_to_video**.
"""


def with_a_clip(graph: Graph, target: str) -> Graph:
    """A graph that makes a clip, and then has its frames encoded, and a prompt for what they are to become."""
    graph.nodes["target"] = Node(
        "MochiParallelTextEncode",
        {"clip": Link("t5"), "prompt": target},
        width=400,
        height=140,
        title="New prompt",
        colours=GREEN,
    )
    graph.nodes["positive"].title = "Prompt of the clip"
    graph.nodes["encode"] = encode("decode")
    graph.groups = [
        Group("Start here", ["note"]),
        Group("Models", ["t5", "dit", "vae"]),
        Group("Prompts", ["positive", "target", "negative"]),
        Group("A clip", ["sampler", "decode", "save"]),
        Group("Another one of it", ["encode", "invert", "again", "decoded", "saved"]),
    ]
    return graph


def denoised(source: Node, latent: str, denoise: float) -> Node:
    """A sampler like another, that starts from a clip."""
    links = {"positive": Link("target"), "latent": Link(latent)}
    return Node("MochiParallelSampler", {**source.inputs, **links, "seed": 2, "denoise": denoise}, height=source.height)


def edited(steps: int, cfg: float, end: float) -> dict[str, Node]:
    """A clip back to its noise, and from there with another prompt."""
    model = {"model": Link("dit")}
    inverted = {"positive": Link("positive"), "latent": Link("encode"), "steps": steps, "schedule": "mochi"}
    words = {"positive": Link("target"), "negative": Link("negative")}
    clip = {"noise": Link("invert"), "original": Link("encode"), "sigmas": Link("invert", 1)}
    guidance = {"cfg": cfg, "strength": 0.6, "start": 0.0, "end": end}
    return {
        "invert": Node("MochiParallelInvert", {**model, **inverted}, height=480),
        "again": Node("MochiParallelResample", {**model, **words, **clip, **guidance}, height=600),
    }


def tiny_video_to_video() -> Graph:
    graph = with_a_clip(tiny_text_to_video(), TINY_PROMPT.replace("red", "blue"))
    graph.name = "tiny_video_to_video"
    graph.nodes["note"] = note(TINY_VIDEO_NOTE, 330)
    graph.nodes["again"] = denoised(graph.nodes["sampler"], "encode", 0.5)
    graph.nodes["decoded"] = decode("again")
    graph.nodes["saved"] = save(12.0, "video/mochi_tiny_again", 400, 545, "decoded")
    return graph


def tiny_edit() -> Graph:
    graph = with_a_clip(tiny_text_to_video(), TINY_PROMPT.replace("red", "blue"))
    graph.name = "tiny_edit"
    graph.nodes["note"] = note(TINY_EDIT_NOTE, 330)
    graph.nodes |= edited(16, 4.0, 0.5)
    graph.nodes["decoded"] = decode("again")
    graph.nodes["saved"] = save(12.0, "video/mochi_tiny_edit", 400, 545, "decoded")
    return graph


def with_a_file(graph: Graph) -> Graph:
    """The published model's graph, about a clip from the input folder: its first 163 frames, cut to size."""
    graph.nodes |= {
        "file": Node("LoadVideo", {"file": "your_video.mp4"}, height=360),
        "parts": Node("GetVideoComponents", {"video": Link("file")}, outputs=3),
        "first": Node("ImageFromBatch", {"image": Link("parts"), "batch_index": 0, "length": 163}),
        "scale": Node(
            "ImageScale",
            {"image": Link("first"), "upscale_method": "lanczos", "width": 848, "height": 480, "crop": "center"},
        ),
        "encode": encode("scale"),
    }
    graph.groups = [
        Group("Mochi 1", ["note"]),
        Group("Models", ["t5", "dit", "vae"]),
        Group("A clip", ["file", "parts", "first", "scale", "encode"]),
        Group("Prompts", ["positive", "target", "negative"]),
        Group("Sampling", ["invert", "again", "sampler"]),
        Group("Video", ["decode", "save"]),
    ]
    return graph


def mochi_video_to_video() -> Graph:
    graph = with_a_file(mochi_text_to_video())
    graph.name = "mochi_video_to_video"
    graph.nodes["note"] = note(VIDEO_NOTE, 420)
    graph.nodes["sampler"] = denoised(graph.nodes["sampler"], "encode", 0.5)
    graph.nodes["sampler"].inputs["positive"] = Link("positive")
    return graph


def mochi_edit() -> Graph:
    graph = with_a_file(mochi_text_to_video())
    graph.name = "mochi_edit"
    graph.nodes["note"] = note(EDIT_NOTE, 420)
    words = graph.nodes["positive"]
    words.title = "Prompt of the clip"
    graph.nodes["target"] = Node(words.kind, dict(words.inputs), 400, 200, "New prompt", GREEN)
    words.inputs["prompt"] = "A red fox trots through a snowy birch forest at sunrise."
    graph.nodes["target"].inputs["prompt"] = "A white wolf trots through a snowy birch forest at sunrise."
    del graph.nodes["sampler"]
    graph.nodes |= edited(64, 6.0, 0.7)
    graph.nodes["decode"] = decode("again")
    return graph
