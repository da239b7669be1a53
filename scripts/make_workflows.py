"""Writes workflows/, each graph below in the editor's format and in the API's, and subgraphs/, the blueprints.

`python -m scripts.make_workflows` (in the virtual environment) starts a ComfyUI to learn the nodes' inputs, on which
the order of widgets in the editor's files depends: run it again when a node of a graph has changed. With names it
writes those graphs alone. A graph with nodes that this ComfyUI does not have stays as it is; `COMFYUI_PATH` chooses a
newer one.
"""

import argparse
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
from scripts.newer_workflows import mochi_prompt_enhancement, mochi_upscale_and_interpolate
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
    mochi_upscale_and_interpolate,
    mochi_prompt_enhancement,
)


def main() -> None:
    made = {graph.name: graph for graph in (function() for function in GRAPHS)}
    blueprints = {blueprint.graph.name: blueprint for blueprint in (function() for function in BLUEPRINTS)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="of a graph; default: all of them")
    names = parser.parse_args().names or [*made, *blueprints]
    if unknown := set(names) - made.keys() - blueprints.keys():
        parser.error(f"there is no graph {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base(Path(folder))
        with ComfyServer(find_or_fetch_comfyui(), base) as server:
            object_info = ComfyClient(server.url).object_info()
    for name in names:
        if name in blueprints:
            write(BLUEPRINT_FOLDER / f"{name}.json", DrawnBlueprint(blueprints[name], object_info).editor())
        elif lacking := made[name].lacking(object_info):
            print(f"{name} stays as it is: this ComfyUI does not have {', '.join(lacking)}")
        else:
            drawn = Drawn(made[name], object_info)
            write(WORKFLOWS / f"{name}.json", drawn.editor())
            write(WORKFLOWS / "api" / f"{name}.json", drawn.api())


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
