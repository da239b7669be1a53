"""Writes workflows/, each graph below in the editor's format and in the API's, and subgraphs/, the blueprints.

`python -m scripts.make_workflows` (in the virtual environment) starts a ComfyUI to learn the nodes' inputs, on which
the order of widgets in the editor's files depends: run it again when a node of a graph has changed.
"""

import json
import tempfile
from pathlib import Path

from scripts.blueprint_format import DrawnBlueprint
from scripts.blueprints import BLUEPRINTS
from scripts.client import ComfyClient
from scripts.comfyui import PROJECT, find_or_fetch_comfyui, prepare_base
from scripts.converted_workflows import mochi_from_wrapper
from scripts.edit_workflows import mochi_edit, mochi_video_to_video, tiny_edit, tiny_video_to_video
from scripts.image_workflows import (
    mochi_image_to_video,
    mochi_start_and_end,
    mochi_transition,
    tiny_image_to_video,
    tiny_start_and_end,
    tiny_transition,
)
from scripts.mask_workflows import mochi_extend, mochi_replace_area, tiny_extend, tiny_replace_area
from scripts.server import ComfyServer
from scripts.text_workflows import (
    mixed_with_builtin_nodes,
    mochi_app,
    mochi_skip_layer_guidance,
    mochi_text_to_video,
    mochi_text_to_video_4_gpus,
    tiny_app,
    tiny_on_two_ranks,
    tiny_skip_layer_guidance,
    tiny_text_to_video,
)
from scripts.workflow_format import Drawn

WORKFLOWS = PROJECT / "workflows"
BLUEPRINT_FOLDER = PROJECT / "subgraphs"  # where ComfyUI looks for them

GRAPHS = (
    tiny_text_to_video,
    mochi_text_to_video,
    mixed_with_builtin_nodes,
    tiny_on_two_ranks,
    mochi_text_to_video_4_gpus,
    tiny_video_to_video,
    tiny_edit,
    mochi_video_to_video,
    mochi_edit,
    tiny_extend,
    tiny_replace_area,
    mochi_extend,
    mochi_replace_area,
    tiny_image_to_video,
    tiny_start_and_end,
    tiny_transition,
    mochi_image_to_video,
    mochi_start_and_end,
    mochi_transition,
    tiny_skip_layer_guidance,
    mochi_skip_layer_guidance,
    tiny_app,
    mochi_app,
    mochi_from_wrapper,
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base(Path(folder))
        with ComfyServer(find_or_fetch_comfyui(), base) as server:
            object_info = ComfyClient(server.url).object_info()
    for graph in GRAPHS:
        drawn = Drawn(graph(), object_info)
        write(WORKFLOWS / f"{drawn.graph.name}.json", drawn.editor())
        write(WORKFLOWS / "api" / f"{drawn.graph.name}.json", drawn.api())
    for blueprint in BLUEPRINTS:
        drawn = DrawnBlueprint(blueprint(), object_info)
        write(BLUEPRINT_FOLDER / f"{drawn.name}.json", drawn.editor())


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
