"""The workflows of the pack in the editor: as templates, and out of a saved video."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.comfyui import PACK_NAME
from scripts.editor import Editor
from tests.browser.conftest import WORKFLOWS
from tests.host.conftest import Comfy

NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
LOADED = "card => card.querySelector('img')?.naturalWidth > 0"
UNKNOWN = "() => app.graph.nodes.filter(node => !LiteGraph.registered_node_types[node.type]).map(node => node.type)"


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def queued(graph: dict[str, dict]) -> dict[str, tuple]:
    """What of a prompt decides its result."""
    return {number: (node["class_type"], node["inputs"]) for number, node in graph.items()}


def browse_templates(editor: Editor) -> None:
    editor.command("Comfy.BrowseTemplates")
    editor.page.get_by_role("dialog").get_by_text(PACK_NAME, exact=True).first.click()
    editor.page.get_by_test_id(f"template-workflow-{NAMES[0]}").wait_for()


def test_templates_have_their_pictures(editor: Editor, screenshot: Callable[[str], None]):
    browse_templates(editor)
    for name in NAMES:
        # Pictures are loaded when they come into view, and let go when they leave it.
        card = editor.page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()
        editor.page.wait_for_function(LOADED, arg=card.element_handle())
    screenshot("")
    cards = editor.page.locator("[data-testid^=template-workflow-]").filter(has=editor.page.locator("h3, p"))
    shown = cards.evaluate_all("cards => cards.map(card => card.dataset.testid)")
    assert sorted(set(shown)) == sorted(f"template-workflow-{name}" for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_as_it_is_queued(editor: Editor, name: str, screenshot: Callable[[str], None]):
    """No node is missing, no widget has the value of another; what the server lacks is offered to be downloaded."""
    workflow = read(WORKFLOWS / f"{name}.json")
    browse_templates(editor)
    editor.page.get_by_test_id(f"template-workflow-{name}").click()
    editor.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
    editor.page.get_by_test_id("template-workflows-content").wait_for(state="hidden")

    models = [model for node in workflow["nodes"] for model in node.get("properties", {}).get("models", [])]
    if models:
        offered = editor.page.locator(".comfy-missing-models")
        offered.wait_for()
        for model in models:
            assert f"{model['directory']} / {model['name']}" in offered.inner_text()
        editor.close_dialog()
    editor.page.wait_for_function("() => !document.querySelector('[role=dialog]')")  # nothing else is missing
    screenshot("")
    assert editor.page.evaluate(UNKNOWN) == []
    assert editor.framed_as_wrong() == []
    assert queued(editor.prompt()) == queued(read(WORKFLOWS / "api" / f"{name}.json"))


@pytest.fixture(scope="module")
def saved(comfy: Comfy) -> dict[str, str]:
    """The file that the tiny workflow saves, by its format: made as the editor would, with the graph in it."""
    workflow = read(WORKFLOWS / "tiny_text_to_video.json")
    files = {}
    for format in ("mp4", "webm"):
        prompt = read(WORKFLOWS / "api" / "tiny_text_to_video.json")
        for node in prompt.values():
            if node["class_type"] == "MochiParallelSampler":
                node["inputs"].update(steps=2, frames=7)
            if node["class_type"] == "MochiParallelSaveVideo":
                node["inputs"].update(format=format)
        done = comfy.client.wait(comfy.client.queue(prompt, workflow), timeout=300)
        (file,) = (file for shown in done["outputs"].values() for file in shown["images"])
        files[format] = f"{file['subfolder']}/{file['filename']}"
    return files


@pytest.fixture(params=["mp4", "webm"])
def video(request: pytest.FixtureRequest, saved: dict[str, str], comfy: Comfy) -> Path:
    return comfy.output / saved[request.param]


def blank(editor: Editor) -> None:
    editor.command("Comfy.NewBlankWorkflow")
    editor.page.wait_for_function("() => app.graph.nodes.length === 0")


def is_back(editor: Editor) -> None:
    """The graph of the saved video is on the canvas."""
    workflow = read(WORKFLOWS / "tiny_text_to_video.json")
    editor.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
    assert queued(editor.prompt()) == queued(read(WORKFLOWS / "api" / "tiny_text_to_video.json"))


def test_a_dropped_video_brings_its_graph_back(editor: Editor, video: Path):
    blank(editor)
    editor.drop(video)
    is_back(editor)


def test_an_opened_video_brings_its_graph_back(editor: Editor, video: Path):
    blank(editor)
    with editor.page.expect_file_chooser() as chooser:
        editor.command("Comfy.OpenWorkflow")
    chooser.value.set_files(video)
    is_back(editor)
