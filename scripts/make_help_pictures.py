"""Makes the pictures in the help pages: each node between the nodes that feed it and those that it feeds.

`python -m scripts.make_help_pictures` (in the virtual environment) needs what `scripts.editor` needs.
"""

import io
import tempfile
from pathlib import Path

from PIL import Image

from scripts.client import ComfyClient
from scripts.comfyui import PROJECT, find_or_fetch_comfyui, prepare_base
from scripts.edit_workflows import mochi_edit, mochi_video_to_video
from scripts.editor import Editor, chromium, write_settings
from scripts.image_workflows import mochi_image_to_video, mochi_transition
from scripts.make_screenshots import PAGE, clip_of
from scripts.mask_workflows import mochi_extend, mochi_replace_area
from scripts.server import ComfyServer
from scripts.text_workflows import mochi_text_to_video, mochi_text_to_video_4_gpus
from scripts.workflow_format import Drawn, Graph, Group, Link, Node

DOCS = PROJECT / "web" / "docs"
MOST = 1100  # pixels across: the panel has fewer, a picture that is opened by itself has these
TEXT = 120  # height of a prompt
BADGE = 16  # above a node, with the pack's name
VIEW = {"scale": 1, "offset": [60, 60]}


def patched() -> Graph:
    """The published model's graph with what can stand between a model and its sampler."""
    graph = mochi_text_to_video()
    graph.nodes |= {
        "lora": Node("MochiParallelLoadLoRA", {"model": Link("dit"), "file": "your_lora.safetensors", "strength": 1.0}),
        "cache": Node("MochiParallelTeaCache", {"model": Link("lora"), "threshold": 0.06, "start": 0.0, "end": 1.0}),
        "sigmas": Node(
            "MochiParallelSigmas",
            {"steps": 8, "threshold_noise": 0.1, "linear_steps": 6, "denoise": 1.0},
            title="Mochi Sigmas",
        ),
    }
    graph.nodes["sampler"].inputs |= {"model": Link("cache"), "sigmas": Link("sigmas")}
    return graph


def many() -> Graph:
    """Prompts for a cluster, and the list of the videos."""
    widgets = {"prompts": "a red circle moves left\na blue star moves up", "model_dir": "", "cluster": "auto"}
    widgets |= {"filename_prefix": "video/batch", "format": "mp4", "seed": -1, "gpus": 1, "send_weights": False}
    widgets |= dict.fromkeys(("steps", "cfg", "width", "height", "frames"), 0)
    nodes = {
        "batch": Node("MochiParallelBatch", widgets),
        "files": Node("PreviewAny", {"source": Link("batch")}),
        "report": Node("PreviewAny", {"source": Link("batch", 1)}),
    }
    return Graph("many", nodes, [])


def trained() -> Graph:
    """A LoRA from clips, and the report of its run."""
    files = {"dit": "mochi_preview_bf16.safetensors", "t5": "t5xxl_fp16.safetensors", "vae": "mochi_vae.safetensors"}
    widgets = {"data": "cats", "name": "styles/cat", **files, "encoder_file": "encoder.safetensors", "steps": 2000}
    widgets |= {"learning_rate": 2e-4, "rank": 16, "alpha": 16.0, "batch": 1, "seed": 0, "restart": False}
    widgets |= {"frames": 37, "width": 848, "height": 480, "sample_every": 200, "sample_prompts": "a cat on a sofa"}
    nodes = {
        "train": Node("MochiParallelTrainLoRA", widgets),
        "report": Node("PreviewAny", {"source": Link("train", 2)}),
    }
    return Graph("trained", nodes, [])


def checked() -> Graph:
    """The published model's graph with checks of its prompt and of its frames."""
    graph = mochi_text_to_video()
    graph.nodes |= {
        "safety": Node(
            "MochiParallelSafety",
            {"conditioning": Link("positive"), "words": "# one a line\nblood\n/kill(s|ed)?/", "checks": ""}
            | {"classifier": "nsfw_image_detection", "labels": "", "threshold": 0.5, "every": 8},
        ),
    }
    graph.nodes["sampler"].inputs["positive"] = Link("safety", 1)
    graph.nodes["save"].inputs["safety"] = Link("safety", 3)
    return graph


PICTURED = {
    "t5": mochi_text_to_video,
    "dit": mochi_text_to_video,
    "vae": mochi_text_to_video,
    "positive": mochi_text_to_video,
    "sampler": mochi_text_to_video,
    "decode": mochi_text_to_video,
    "save": mochi_text_to_video,
    "lora": patched,
    "cache": patched,
    "sigmas": patched,
    "encode": mochi_video_to_video,
    "invert": mochi_edit,
    "again": mochi_edit,
    "longer": mochi_extend,
    "masked": mochi_replace_area,
    "given": mochi_image_to_video,
    "joined": mochi_transition,
    "parallel": mochi_text_to_video_4_gpus,
    "status": mochi_text_to_video_4_gpus,
    "batch": many,
    "train": trained,
    "safety": checked,
}
"""The nodes of all help pages, by their names in a graph."""


def around(graph: Graph, name: str) -> Graph:
    """A node of a graph, what feeds it on its left and what it feeds on its right."""
    links = {other: links_of(node) for other, node in graph.nodes.items()}
    before = list(dict.fromkeys(link.node for link in links[name].values()))
    behind = [other for other in graph.nodes if any(link.node == name for link in links[other].values())]
    shown = [*before, name, *behind]
    nodes = {}
    for other in shown:
        node = graph.nodes[other]
        kept = {key: link for key, link in links[other].items() if other == name or link.node == name}
        widgets = {key: value for key, value in node.inputs.items() if key not in links[other]}
        # No taller than its widgets: nothing is shown below them here.
        height = TEXT if node.kind == "MochiParallelTextEncode" else None
        nodes[other] = Node(node.kind, widgets | kept, node.width, height, node.title, node.colours)
    return Graph(name, nodes, [Group("", part) for part in (before, [name], behind) if part])


def links_of(node: Node) -> dict[str, Link]:
    return {key: value for key, value in node.inputs.items() if isinstance(value, Link)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base(Path(folder))
        write_settings(base)
        with ComfyServer(find_or_fetch_comfyui(), base) as server, chromium() as browser:
            info = ComfyClient(server.url).object_info()
            editor = Editor(browser.new_page(viewport=PAGE), server.url).start()
            editor.command("Workspace.ToggleFocusMode")
            for name, make in PICTURED.items():
                graph = make()
                drawn = Drawn(around(graph, name), info).editor() | {"groups": [], "extra": {"ds": VIEW}}
                editor.page.evaluate("workflow => app.loadGraphData(workflow)", drawn)
                file = DOCS / graph.nodes[name].kind / "graph.jpg"
                save(editor, file)
                print(file)


def save(editor: Editor, file: Path) -> None:
    editor.page.wait_for_timeout(500)  # boxes of text follow the canvas
    clip = clip_of(editor)
    clip["y"] -= BADGE
    clip["height"] += BADGE
    picture = Image.open(io.BytesIO(editor.page.screenshot(clip=clip))).convert("RGB")
    if picture.width > MOST:
        picture = picture.resize((MOST, round(picture.height * MOST / picture.width)), Image.Resampling.LANCZOS)
    picture.save(file, quality=75, optimize=True, progressive=True)


if __name__ == "__main__":
    main()
