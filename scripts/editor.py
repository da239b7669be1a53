"""ComfyUI's editor in a real browser, driven as a person does: for the tests and the pictures of the README.

Needs Playwright's Python package and a Chromium: Debian's, Chrome, or the one that `playwright install` fetches.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, WebSocket

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SIZE = {"width": 1600, "height": 900}
# The settings of a person who has used the editor before: no tour on opening. Without a GPU a minimap is slow to draw.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "LiteGraph.Node.TooltipDelay": 0,
    "Comfy.OnboardingCoachmarks.Seen": ["firstRun", "appMode"],
}
# Pages of one browser do not bring back each other's graphs, nor an announcement above them.
FRESH = "localStorage.clear(); localStorage.setItem('vueNodesBannerDismissed', 'true')"
# The middle of a widget on the canvas, in pixels of the page, once it stays where it is: layout takes some frames.
WIDGET_PLACE = """async ([id, name]) => {
    const node = app.graph.getNodeById(id), widget = node.widgets.find(widget => widget.name === name)
    const middle = () => [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10]
    const place = () => [...app.canvas.ds.convertOffsetToCanvas(middle())]
    for (let still = 0, before, frame = 0; still < 3; frame++) {
        if (frame === 1000) throw new Error(`the widget ${name} does not come to rest`)
        await new Promise(requestAnimationFrame)
        const now = String(place())
        still = now === before && !now.includes('NaN') ? still + 1 : 0
        before = now
    }
    return place()
}"""
ERROR_FRAMES = """() => app.graph.nodes.filter(node => Object.entries(node.strokeStyles).some(
    ([name, style]) => /error/i.test(name) && style.call(node))).map(node => Number(node.id))"""
DROP = """([bytes, name, type, x, y]) => {
    const dropped = new DataTransfer(), content = Uint8Array.from(atob(bytes), byte => byte.charCodeAt(0))
    dropped.items.add(new File([content], name, {type}))
    const event = {dataTransfer: dropped, bubbles: true, cancelable: true, clientX: x, clientY: y}
    const target = document.elementFromPoint(x, y)
    for (const kind of ['dragenter', 'dragover', 'drop']) target.dispatchEvent(new DragEvent(kind, event))
}"""


class NoBrowser(RuntimeError):
    """There is nothing to drive; the message says what is missing."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser: one of this machine, else Playwright's own. Raises NoBrowser."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise NoBrowser("the package playwright is not installed") from None
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None and not Path(playwright.chromium.executable_path).exists():
            raise NoBrowser("no Chromium on this machine: `apt install chromium`, or `playwright install chromium`")
        try:
            browser = playwright.chromium.launch(executable_path=found)
        except Error as error:
            raise NoBrowser(f"{found or 'the Chromium of playwright'} does not start: {error}") from None
        with browser:
            yield browser


def write_settings(base: Path) -> None:
    """Give a server that has not started yet the SETTINGS of its user."""
    folder = base / "user" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comfy.settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")


def kind_of(frame: str | bytes) -> str:
    """The type that a message from the server says it has; "preview" for the picture of a step."""
    if isinstance(frame, bytes):
        return "preview" if int.from_bytes(frame[:4], "big") in (1, 4) else "binary"
    return json.loads(frame)["type"]


class Editor:
    """The editor in a page that is not open yet: `editor.start()`."""

    def __init__(self, page: Page, url: str):
        self.page, self.url = page, url
        self.socket: WebSocket | None = None
        self.frames: list[str | bytes] = []  # all that the server has sent
        self.errors: list[str] = []  # of the console and uncaught
        page.add_init_script(FRESH)
        page.on("websocket", self._listen)
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def start(self) -> Editor:
        self.page.goto(self.url)
        self.page.wait_for_function("window.app?.vueAppReady && app.graph?.nodes.length > 0", timeout=60_000)
        return self

    def open(self, workflow: dict[str, Any]) -> None:
        """Show a graph of the editor's format, all of it in view."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        self.fit()

    def fit(self) -> None:
        self.command("Comfy.Canvas.FitView")

    def command(self, name: str) -> None:
        """One of the editor's own commands, as behind its menus and keys."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def set(self, node: int, **widgets: Any) -> None:
        """Values of a node's widgets, without going through their mouse handling."""
        for name, value in widgets.items():
            change = "([id, name, value]) => app.graph.getNodeById(id).widgets.find(w => w.name === name).value = value"
            self.page.evaluate(change, [node, name, value])

    def value(self, node: int, widget: str) -> Any:
        read = "([id, name]) => app.graph.getNodeById(id).widgets.find(w => w.name === name).value"
        return self.page.evaluate(read, [node, widget])

    def type(self, node: int, widget: str, text: str) -> None:
        """Click on a widget of numbers or a line of text, and type another value."""
        self.page.mouse.click(*self.place(node, widget))
        self.page.locator(".graphdialog input").fill(text)
        self.page.keyboard.press("Enter")
        self.page.locator(".graphdialog").wait_for(state="detached")

    def place(self, node: int, widget: str) -> tuple[float, float]:
        """The middle of a widget, in pixels of the page."""
        x, y = self.page.evaluate(WIDGET_PLACE, [node, widget])
        return x, y

    def prompt(self) -> dict[str, dict]:
        """The graph as the editor would queue it."""
        return self.page.evaluate("() => app.graphToPrompt().then(graph => graph.output)")

    def queue(self) -> None:
        self.page.get_by_test_id("queue-button").click()

    def run(self, until: str = "execution_success", timeout: float = 120) -> str | bytes:
        """Press Run and wait for a message of that kind."""
        with self.message(until, timeout) as message:
            self.queue()
        return message.value

    def cancel(self) -> None:
        """Press the button that stops the prompt which runs now."""
        self.page.get_by_role("button", name="Cancel current run").click()

    def message(self, kind: str, timeout: float = 60) -> Any:
        """`with editor.message(kind) as message:` does what is in the block and waits for the server to say so."""
        assert self.socket is not None, "the editor has not started"
        return self.socket.expect_event("framereceived", lambda frame: kind_of(frame) == kind, timeout=timeout * 1000)

    def video(self) -> Locator:
        """The video in a save node, once it can play."""
        video = self.page.locator("video")
        video.wait_for()
        self.page.wait_for_function("() => document.querySelector('video').readyState >= 3")
        return video

    def dialog(self) -> str:
        """The text of the dialog that is open, or about to be."""
        dialog = self.page.get_by_role("dialog").last
        dialog.wait_for()
        return dialog.inner_text()

    def close_dialog(self) -> None:
        self.page.keyboard.press("Escape")
        self.page.get_by_role("dialog").last.wait_for(state="hidden")

    def framed_as_wrong(self) -> list[int]:
        """The nodes around which the canvas draws the frame of an error."""
        return self.page.evaluate(ERROR_FRAMES)

    def drop(self, file: Path, x: float = 800, y: float = 850) -> None:
        """Drop a file on the page, by default where there is nothing but the canvas."""
        kind, _ = mimetypes.guess_type(file.name)
        self.page.evaluate(DROP, [base64.b64encode(file.read_bytes()).decode(), file.name, kind, x, y])

    def link(self, source: int, output: int, target: int, socket: str) -> None:
        """A link from an output of a node to an input of another, in place of the one that it has."""
        connect = """([source, output, target, socket]) => {
            const to = app.graph.getNodeById(target)
            app.graph.getNodeById(source).connect(output, to, to.findInputSlot(socket))
        }"""
        self.page.evaluate(connect, [source, output, target, socket])

    def _listen(self, socket: WebSocket) -> None:
        self.socket = socket
        socket.on("framereceived", lambda frame: self.frames.append(frame))  # a built-in method is not accepted
