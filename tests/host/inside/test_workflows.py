"""The shipped workflows: the editor's file and the API's say the same, and every node in them exists."""

import itertools
from pathlib import Path

import nodes
import pytest
from graphs import NOTES, WIDGETS, inputs_of, read, to_api, without_titles

WORKFLOWS = Path(__file__).resolve().parents[3] / "workflows"
FILES = sorted(WORKFLOWS.glob("*.json"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request, pack):
    """A workflow whose nodes this host has; which it may lack is tested in tests/host/test_server.py."""
    lacking = {node["type"] for node in read(request.param)["nodes"]} - nodes.NODE_CLASS_MAPPINGS.keys() - set(NOTES)
    if lacking:
        pytest.skip(f"this ComfyUI does not have {', '.join(sorted(lacking))}")
    return request.param


def test_both_formats_say_the_same(file):
    api = read(WORKFLOWS / "api" / file.name)
    assert to_api(read(file)) == without_titles(api)


def test_sockets_are_those_of_the_nodes(pack, file):
    for node in read(file)["nodes"]:
        if node["type"] in NOTES:
            continue
        kinds = {name: kind for name, (kind, _) in inputs_of(node["type"]).items()}
        linked = [socket for socket in node["inputs"] if "widget" in socket]  # behind the sockets
        sockets = [(name, kind) for name, kind in kinds.items() if kind not in WIDGETS]
        sockets += [(socket["widget"]["name"], kinds[socket["name"]]) for socket in linked]
        assert [(socket["name"], socket["type"]) for socket in node["inputs"]] == sockets
        definition = nodes.NODE_CLASS_MAPPINGS[node["type"]]
        if hasattr(definition, "GET_SCHEMA"):
            definition.GET_SCHEMA()
        outputs = [str(kind) for kind in definition.RETURN_TYPES or []]
        if node["type"] not in pack.nodes:  # in a newer host it may have more, which the editor adds
            outputs = outputs[: len(node["outputs"])]
        assert [output["type"] for output in node["outputs"]] == outputs


def test_links_are_whole(file):
    graph = read(file)
    by_id = {node["id"]: node for node in graph["nodes"]}
    assert len(by_id) == len(graph["nodes"]) and graph["last_node_id"] == max(by_id)
    assert graph["last_link_id"] == max(link[0] for link in graph["links"])
    for number, source, output, target, slot, kind in graph["links"]:
        assert number in by_id[source]["outputs"][output]["links"]
        assert by_id[source]["outputs"][output]["type"] == kind
        assert by_id[target]["inputs"][slot]["link"] == number
        accepted = by_id[target]["inputs"][slot]["type"].split(",")
        assert kind in accepted or accepted == ["*"]


def test_layout_is_tidy(file):
    """No node covers another, each lies in one group, and groups do not overlap."""
    graph = read(file)
    boxes = [(*node["pos"], *node["size"]) for node in graph["nodes"]]
    boxes = [(x, y - 30, width, height + 30) for x, y, width, height in boxes]  # with the title bar
    groups = [group["bounding"] for group in graph["groups"]]
    for family in (boxes, groups):
        for (ax, ay, aw, ah), (bx, by, bw, bh) in itertools.combinations(family, 2):
            assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
    for x, y, width, height in boxes:
        inside = [gx <= x and gy <= y and x + width <= gx + gw and y + height <= gy + gh for gx, gy, gw, gh in groups]
        assert sum(inside) == 1
    assert any(node["type"] == "MarkdownNote" and node["widgets_values"][0].strip() for node in graph["nodes"])


AS_PUBLISHED = ["mochi_text_to_video", "mochi_text_to_video_4_gpus"]
OF_PUSA = ["mochi_image_to_video", "mochi_start_and_end", "mochi_transition"]
OF_NEWER = {
    "mochi_upscale_and_interpolate": {"upscale_models", "frame_interpolation"},
    "mochi_prompt_enhancement": set(),
}
PUBLISHED = pytest.mark.parametrize("name", AS_PUBLISHED)


@pytest.mark.parametrize("name", [*AS_PUBLISHED, *OF_PUSA, *OF_NEWER])
def test_download_hints_belong_to_widgets(name):
    graph = read(WORKFLOWS / f"{name}.json")
    hints = [(node, model) for node in graph["nodes"] for model in node["properties"].get("models", [])]
    folders = {"diffusion_models", "text_encoders", "vae"} | OF_NEWER.get(name, set())
    assert {model["directory"] for _, model in hints} == folders
    for node, model in hints:
        assert model["name"] in node["widgets_values"]
        assert model["url"].startswith("https://huggingface.co/") and f"/{model['name']}?" in model["url"]


def widgets_of(name):
    """Name -> value of all nodes together."""
    nodes = read(WORKFLOWS / "api" / f"{name}.json").values()
    return {key: value for node in nodes for key, value in node["inputs"].items()}


@pytest.mark.parametrize("name", ["tiny_text_to_video", "mixed_with_builtin_nodes", "tiny_on_two_ranks"])
def test_sizes_fit_the_tiny_model(pack, name):
    """The tiny workflows run the built-in model at the size that it was trained for."""
    defaults = pack.module("mochi.config").TINY.defaults
    values = widgets_of(name)
    assert (values["width"], values["height"]) == (defaults.width, defaults.height)
    assert values.get("frames", values.get("length")) == defaults.frames
    assert (values["steps"], values["cfg"]) == (defaults.steps, defaults.cfg)


@PUBLISHED
def test_published_workflow_is_as_published(pack, name):
    defaults = pack.module("mochi.config").PREVIEW.defaults
    values = widgets_of(name)
    for name in ("width", "height", "frames", "steps", "cfg", "fps"):
        assert values[name] == getattr(defaults, name)


@pytest.mark.parametrize("name", OF_PUSA)
def test_given_frames_have_the_values_of_their_release(name):
    values = widgets_of(name)
    assert (values["steps"], values["cfg"]) == (30, 4.5)
    assert (values["width"], values["height"], values["frames"]) == (848, 480, 163)
