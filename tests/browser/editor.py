"""The editors that people have, as one: of ComfyUI 0.3.75 and of today, classic and with Nodes 2.0.

Nodes 2.0 draws nodes as HTML, where the classic editor paints them on the canvas. Today's editor lists what is wrong in
a panel, where the older one opens a dialog.
"""

from __future__ import annotations

import itertools
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.editor import Editor

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CLASSIC, NODES_2 = "classic", "Nodes 2.0"
FRONTEND = tuple(map(int, version("comfyui-frontend-package").split(".")[:2]))
NEW = FRONTEND >= (1, 40)
TEXT = "$$node-text-preview"  # the widget in which the editor shows what a node tells while it runs
# Of nodes, with their title bars, and of groups: left, top, width and height on the canvas.
BOXES = """() => ({
    nodes: app.graph.nodes.map(node => {
        const [left, top, width, height] = node.boundingRect ?? node._bounding
        const drawn = document.querySelector(`[data-node-id="${node.id}"]`)
        return drawn ? [left, top, drawn.offsetWidth, drawn.offsetHeight] : [left, top, width, height]
    }),
    groups: app.graph.groups.map(group => [...(group.boundingRect ?? group._bounding)]),
})"""
# The sizes of nodes, once they stay as they are.
RESTED = """async () => {
    const drawn = () => String(app.graph.nodes.map(node => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`)
        return element ? [element.offsetWidth, element.offsetHeight] : [...node.size]
    }))
    for (let still = 0, before; still < 10;) {
        await new Promise(requestAnimationFrame)
        const now = drawn()
        still = now === before ? still + 1 : 0
        before = now
    }
}"""
LOADERS = "() => app.graph.nodes.filter(node => node.type === 'LoadImage').map(node => Number(node.id))"
ADD_LOADER = """() => {
    const loader = LiteGraph.createNode('LoadImage')
    loader.pos = app.canvas.ds.convertCanvasToOffset([800, 700])
    app.graph.add(loader)
}"""
# The middle of the title bar of a node, in pixels of the page.
TITLE_PLACE = """id => {
    const node = app.graph.getNodeById(id)
    return [...app.canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] - 15])]
}"""


class AnyEditor(Editor):
    """What a person does and sees, in one of the editors: `AnyEditor(page, url, NODES_2).start()`."""

    def __init__(self, page: Page, url: str, renderer: str = CLASSIC):
        super().__init__(page, url)
        self.nodes_2 = renderer == NODES_2

    def start(self) -> AnyEditor:
        super().start()
        change = "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
        self.page.evaluate(change, self.nodes_2)
        return self

    def node(self, node: int) -> Locator:
        """A node of Nodes 2.0."""
        return self.page.locator(f"[data-node-id='{node}']")

    def widget(self, node: int, name: str) -> Locator:
        """A widget of Nodes 2.0, with its label."""
        label = self.page.get_by_test_id("widget-layout-field-label").get_by_text(name, exact=True)
        return self.node(node).get_by_test_id("node-widget").filter(has=label)

    def hover(self, node: int, widget: str) -> Locator:
        """The tooltip of a widget under the mouse."""
        if self.nodes_2:
            self.widget(node, widget).get_by_test_id("widget-layout-field-label").hover()
            return self.page.get_by_role("tooltip")
        self.page.mouse.move(*self.place(node, widget))
        return self.page.locator(".node-tooltip")

    def type(self, node: int, widget: str, text: str) -> None:
        if self.nodes_2:
            field = self.widget(node, widget).locator("input")
            field.fill(text)
            field.press("Enter")
            field.blur()
        else:
            super().type(node, widget, text)

    def choices(self, node: int, widget: str) -> Locator:
        """The entries of a list of files, which is open then."""
        if self.nodes_2:
            self.widget(node, widget).get_by_role("combobox").click()
            return self.page.get_by_role("option")
        self.page.mouse.click(*self.place(node, widget))
        return self.page.locator(".litecontextmenu .litemenu-entry")

    def drop_picture(self, file: Path) -> int:
        """Drop a picture on the canvas: the Load Image node of it. The older editor wants one to drop it on."""
        before = self.page.evaluate(LOADERS)
        if NEW:
            self.drop(file)
        else:
            self.page.evaluate(ADD_LOADER)
        self.page.wait_for_function(f"before => ({LOADERS})().length > before.length", arg=before)
        (loader,) = set(self.page.evaluate(LOADERS)) - set(before)
        if not NEW:
            self.drop_on(loader, file)
        return loader

    def drop_on(self, node: int, file: Path) -> None:
        """Drop a file on a node."""
        self.page.evaluate(RESTED)
        self.drop(file, *self.page.evaluate(TITLE_PLACE, node))

    def wait_for_picture(self, node: int) -> None:
        """Until a node shows a picture of its run."""
        if self.nodes_2:
            picture = self.node(node).locator("img").first.element_handle()
            self.page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture)
        else:
            self.page.wait_for_function("id => app.graph.getNodeById(id).imgs?.[0].naturalWidth > 0", arg=node)

    def shows_video(self, node: int) -> bool:
        """Whether the video of the page is in that node."""
        if self.nodes_2:
            return self.node(node).locator("video").count() == 1
        in_node = "id => app.graph.getNodeById(id).videoContainer.contains(document.querySelector('video'))"
        return self.page.evaluate(in_node, node)

    def told(self, node: int) -> str:
        """The line of text that a node shows of its run."""
        return self.value(node, TEXT)

    def wrong(self) -> str:
        """All that the editor says is wrong with the run, as a person gets to read it."""
        if not NEW:
            said = self.dialog()
            self.close_dialog()
            return said
        panel = self.listed()
        for more in panel.get_by_role("button", name=re.compile("^Info for")).all():
            more.click()
        return panel.inner_text()

    def missing(self) -> str:
        """What the editor says of the model files that the server does not have."""
        if NEW:
            return self.listed("missing-model").inner_text()
        offered = self.page.locator(".comfy-missing-models")
        offered.wait_for()
        said = offered.inner_text()
        self.close_dialog()
        return said

    def listed(self, kind: str = "execution") -> Locator:
        """The errors of a kind, in the panel of today's editor."""
        shown = self.page.get_by_test_id("error-overlay-see-errors")
        shown.or_(self.page.get_by_test_id("linear-view-errors")).last.click()  # of app mode, which hides the other
        panel = self.page.get_by_test_id(f"error-group-{kind}")
        panel.wait_for()
        return panel

    def add(self, name: str) -> None:
        """Add a node to the middle of the canvas, from the search box of today's editor."""
        middle = self.page.viewport_size or {"width": 0, "height": 0}
        x, y = middle["width"] // 2, middle["height"] // 2
        self.page.mouse.dblclick(x, y)
        self.page.get_by_role("dialog").get_by_role("combobox").first.fill(name)
        self.page.get_by_test_id("result-item").filter(has_text=name).first.click()
        self.page.mouse.click(x, y)

    def overlaps(self) -> list[Any]:
        """Pairs of nodes of which one covers the other, and nodes that do not lie in a group."""
        self.page.evaluate(RESTED)
        boxes = self.page.evaluate(BOXES)
        nodes = [Box(*box) for box in boxes["nodes"]]
        groups = [Box(*box) for box in boxes["groups"]]
        covered = [pair for pair in itertools.combinations(nodes, 2) if pair[0].meets(pair[1])]
        return covered + [node for node in nodes if not any(group.holds(node) for group in groups)]


class Box(tuple[float, float, float, float]):
    """Left, top, width and height."""

    def __new__(cls, left: float, top: float, width: float, height: float) -> Box:
        assert width > 0 and height > 0, "nothing is drawn"
        return super().__new__(cls, (left, top, left + width, top + height))

    def meets(self, other: Box) -> bool:
        return self[0] < other[2] and other[0] < self[2] and self[1] < other[3] and other[1] < self[3]

    def holds(self, other: Box) -> bool:
        return self[0] <= other[0] and self[1] <= other[1] and self[2] >= other[2] and self[3] >= other[3]
