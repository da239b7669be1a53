"""What the editor shows of the pack: its nodes, widgets and help pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from scripts.comfyui import PACK_NAME, PROJECT
from tests.browser.conftest import classic
from tests.browser.editor import AnyEditor
from tests.host.conftest import Comfy

if TYPE_CHECKING:
    from playwright.sync_api import Route

HELP = PROJECT / "web" / "docs"
SAMPLER = 6  # of the tiny graph
# All but those that are boxes of text above the canvas, and the editor's own.
CANVAS_WIDGETS = """() => app.graph.nodes.flatMap(node => (node.widgets ?? [])
    .filter(widget => !widget.element && widget.name !== 'control_after_generate')
    .map(widget => [node.id, node.type, widget.name]))"""

# A new node in the middle of the page, where nothing covers its buttons.
SELECT = """name => {
    const node = LiteGraph.createNode(name)
    node.pos = app.canvas.ds.convertCanvasToOffset([800, 400])
    app.canvas.selectNode(app.graph.add(node))
}"""


def without_pack(route: Route) -> None:
    """The host's list of nodes, as if the pack were not installed."""
    answer = route.fetch()
    known = {name: info for name, info in answer.json().items() if PACK_NAME not in info["python_module"]}
    route.fulfill(response=answer, json=known)


def complaints(editor: AnyEditor) -> set[str]:
    """What the console says is wrong, without addresses and numbers, which differ each time."""
    return {re.sub(r"https?://\S+|\d+", "", error) for error in editor.errors}


def test_nodes_come_to_the_canvas_without_errors(editor: AnyEditor, comfy: Comfy):
    """The editor has complaints of its own; with the pack there are no others."""
    page = editor.page.context.new_page()
    page.route("**/object_info", without_pack)
    with page:
        bare = AnyEditor(page, comfy.server.url).start()
        names = list(comfy.pack_nodes())
        known = "names => names.filter(name => name in LiteGraph.registered_node_types)"
        assert page.evaluate(known, names) == []
        assert editor.page.evaluate(known, names) == names
        for name in names:
            editor.page.evaluate("name => app.graph.add(LiteGraph.createNode(name))", name)
        assert complaints(editor) <= complaints(bare)


def test_every_widget_has_its_tooltip(editor: AnyEditor, comfy: Comfy, tiny: dict, screenshot: Callable[[str], None]):
    editor.open(tiny)
    nodes = comfy.pack_nodes()
    widgets = editor.page.evaluate(CANVAS_WIDGETS)
    assert len(widgets) > 20, widgets
    for node, kind, widget in widgets:
        info = nodes[kind]["input"]
        tooltip = {**info["required"], **info.get("optional", {})}[widget][1]["tooltip"]
        editor.hover(node, widget).get_by_text(tooltip).wait_for()  # Nodes 2.0 say the value below it
    screenshot("of the last widget")


def test_a_number_goes_to_the_nearest_that_the_model_can(editor: AnyEditor, tiny: dict):
    editor.open(tiny)
    for widget, typed, taken in [("frames", "24", 25), ("frames", "-5", 1), ("width", "70", 64), ("height", "9", 16)]:
        editor.type(SAMPLER, widget, typed)
        assert editor.value(SAMPLER, widget) == taken, (widget, typed)


@classic
def test_every_node_has_its_help_page(editor: AnyEditor, comfy: Comfy, screenshot: Callable[[str], None]):
    shown = editor.page.locator(".node-help-content")
    for name in comfy.pack_nodes():
        editor.page.evaluate(SELECT, name)
        editor.page.get_by_test_id("info-button").click()
        text = (HELP / f"{name}.md").read_text(encoding="utf-8")
        headings = re.findall("^#+ (.+)$", text, re.MULTILINE)
        for heading in headings:
            shown.get_by_role("heading", name=heading, exact=True).first.wait_for()
        picture = shown.locator(f"img[src$='{name}/graph.jpg']").element_handle()
        editor.page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture)
        editor.page.evaluate("() => app.graph.clear()")
    screenshot("of the last node")
