"""What only today's editor has: blueprints in its node library, app mode, and the texts of nodes in Chinese."""

import json
from collections.abc import Callable, Iterator

import pytest

from scripts.comfyui import PROJECT
from tests.browser.conftest import SEEDS, WORKFLOWS, classic
from tests.browser.editor import FRONTEND, NEW, NODES_2, AnyEditor
from tests.host.conftest import Comfy

pytestmark = pytest.mark.skipif(not NEW, reason=f"the frontend {FRONTEND} has none of it, or not to be driven")
TINY = "tiny (built in)"
SMALL = {"width": 64, "height": 64, "frames": 7, "steps": 2}
FORM = ["prompt", "seed", "steps", "cfg", "width", "height", "frames"]
SAVE = """type => {
    const made = app.graph.nodes[0], save = LiteGraph.createNode(type)
    app.graph.add(save)
    made.connect(0, save, save.findInputSlot('images'))
}"""


def test_a_blueprint_makes_a_video(editor: AnyEditor, comfy: Comfy, screenshot: Callable[[str], None]):
    """From the search box to the canvas, where its widgets are those of the nodes inside."""
    editor.command("Comfy.NewBlankWorkflow")
    editor.page.wait_for_function("() => app.graph.nodes.length === 0")
    editor.add("Text to Video (Mochi)")
    editor.page.wait_for_function("() => app.graph.nodes.length === 1")
    node = editor.page.evaluate("() => Number(app.graph.nodes[0].id)")
    assert editor.value(node, "frames") == 163
    editor.set(node, t5_file=TINY, dit_file=TINY, vae_file=TINY, seed=next(SEEDS), **SMALL)
    (save,) = (kind for kind, info in comfy.pack_nodes().items() if info["display_name"] == "Mochi Save Video")
    editor.page.evaluate(SAVE, save)
    screenshot("before its run")
    editor.run(timeout=300)
    assert editor.video().evaluate("video => video.duration") == pytest.approx(7 / 30, abs=0.1)


@classic
def test_an_app_opens_as_a_form_and_makes_a_video(editor: AnyEditor, screenshot: Callable[[str], None]):
    workflow = json.loads((WORKFLOWS / "tiny_text_to_video.app.json").read_text(encoding="utf-8"))
    editor.open(workflow)
    form = editor.page.get_by_test_id("linear-widgets")
    form.wait_for()
    assert form.get_by_test_id("app-mode-widget-item").all_inner_texts() == FORM
    assert form.locator("textarea").input_value() == "a red circle moves left on a black background"
    sampler = int(workflow["extra"]["linearData"]["inputs"][-1][0])
    editor.set(sampler, seed=next(SEEDS), **SMALL)
    with editor.message("execution_success", 300):
        editor.page.get_by_test_id("linear-run-button").get_by_role("button", name="Run", exact=True).click()
    editor.page.locator("video:visible").first.wait_for()  # not the one of the node behind
    screenshot("with its video")


@pytest.fixture
def in_chinese(comfy: Comfy) -> Iterator[None]:
    """For a person who has chosen it."""
    comfy.client.post("/settings/Comfy.Locale", "zh")
    yield
    comfy.client.post("/settings/Comfy.Locale", "en")


@pytest.mark.parametrize("renderer", [NODES_2], indirect=True)
def test_nodes_are_in_chinese(in_chinese: None, editor: AnyEditor, tiny: dict, screenshot: Callable[[str], None]):
    texts = json.loads((PROJECT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    editor.open(tiny)
    for node in tiny["nodes"]:
        if node["type"] in texts:
            translated = texts[node["type"]]
            title = node.get("title", translated["display_name"])
            for text in (title, *(entry["name"] for entry in translated["inputs"].values())):
                editor.node(node["id"]).get_by_text(text, exact=True).first.wait_for()
    screenshot("")
