"""Makes the pictures of the editor in the README: the tiny graph after a run, and the published model on four GPUs.

`python -m scripts.make_screenshots` (in the virtual environment) needs what `scripts.editor` needs.
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from scripts.comfyui import PROJECT, find_or_fetch_comfyui, prepare_base
from scripts.editor import Editor, chromium, write_settings
from scripts.server import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect, ViewportSize

PICTURES = PROJECT / "pictures"
WIDTH = 1600
# Larger than the picture: the editor leaves texts out of graphs that are drawn small.
PAGE: ViewportSize = {"width": 2400, "height": 1200}
MARGIN = 24
# Left, top, right and bottom of all groups and nodes, in pixels of the page.
BOUNDS = """() => {
    const boxes = [...app.graph.groups, ...app.graph.nodes].map(item => item.boundingRect ?? item._bounding)
    const corner = (x, y) => [...app.canvas.ds.convertOffsetToCanvas([x, y])]
    return [...corner(Math.min(...boxes.map(b => b[0])), Math.min(...boxes.map(b => b[1]))),
            ...corner(Math.max(...boxes.map(b => b[0] + b[2])), Math.max(...boxes.map(b => b[1] + b[3])))]
}"""


def clip_of(editor: Editor) -> FloatRect:
    """Where the graph is in the page, as a screenshot takes it."""
    left, top, right, bottom = editor.page.evaluate(BOUNDS)
    width, height = right - left + 2 * MARGIN, bottom - top + 2 * MARGIN
    return {"x": left - MARGIN, "y": top - MARGIN, "width": width, "height": height}


def save(editor: Editor, name: str) -> None:
    """The graph, without the page around it."""
    picture = Image.open(io.BytesIO(editor.page.screenshot(clip=clip_of(editor)))).convert("RGB")
    height = round(picture.height * WIDTH / picture.width)
    PICTURES.mkdir(exist_ok=True)
    file = PICTURES / f"{name}.jpg"
    picture.resize((WIDTH, height), Image.Resampling.LANCZOS).save(file, quality=88)
    print(file)


def open_alone(editor: Editor, name: str) -> None:
    """A workflow, without the bars around the canvas."""
    editor.open(json.loads((PROJECT / "workflows" / f"{name}.json").read_text(encoding="utf-8")))
    if editor.page.get_by_role("dialog").count():  # the models that are not here
        editor.close_dialog()
    editor.fit()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base(Path(folder))
        write_settings(base)
        with ComfyServer(find_or_fetch_comfyui(), base) as server, chromium() as browser:
            editor = Editor(browser.new_page(viewport=PAGE), server.url).start()
            open_alone(editor, "tiny_text_to_video")
            editor.run()
            editor.video().evaluate("video => video.play()")
            editor.page.wait_for_function("() => document.querySelector('video').currentTime > 1")
            editor.command("Workspace.ToggleFocusMode")
            editor.fit()
            editor.place(6, "seed")
            save(editor, "tiny_text_to_video")
            open_alone(editor, "mochi_text_to_video_4_gpus")
            editor.page.mouse.move(2, 2)
            editor.place(1, editor.page.evaluate("() => app.graph.getNodeById(1).widgets[0].name"))
            save(editor, "mochi_text_to_video_4_gpus")


if __name__ == "__main__":
    main()
