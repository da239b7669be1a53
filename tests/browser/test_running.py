"""Run, cancel and errors, as a person sees them."""

import json
from collections import Counter
from collections.abc import Callable

import pytest

from scripts.editor import Editor, kind_of
from tests.browser.conftest import OTHER_MODEL

DIT, SAMPLER, SAVE = 2, 6, 8  # nodes of the tiny graph


def test_run_ends_with_a_playing_video(editor: Editor, tiny: dict, screenshot: Callable[[str], None]):
    editor.open(tiny)
    editor.run()
    seen = Counter(map(kind_of, editor.frames))
    assert seen["progress"] > 16 and seen["progress_state"] > 16 and seen["preview"] > 1, seen
    # The pictures on the way were the sampler's.
    editor.page.wait_for_function("id => app.graph.getNodeById(id).imgs?.[0].naturalWidth > 0", arg=SAMPLER)

    video = editor.video()
    assert video.evaluate("video => video.duration") == pytest.approx(25 / 12, abs=0.1)
    video.click()
    editor.page.wait_for_function("() => document.querySelector('video').currentTime > 0.1")
    assert not video.evaluate("video => video.paused")
    screenshot("at its end")
    in_node = "id => app.graph.getNodeById(id).videoContainer.contains(document.querySelector('video'))"
    assert editor.page.evaluate(in_node, SAVE)
    assert editor.framed_as_wrong() == []


def test_cancel_stops_a_run_and_the_next_one_works(editor: Editor, tiny: dict, screenshot: Callable[[str], None]):
    editor.open(tiny)
    editor.set(SAMPLER, steps=1000, seed=2)
    editor.run(until="preview")
    screenshot("before")
    with editor.message("execution_interrupted") as message:
        editor.cancel()
    assert json.loads(message.value)["data"]["node_id"] == str(SAMPLER)
    assert editor.page.locator("video").count() == 0
    assert editor.framed_as_wrong() == []

    editor.set(SAMPLER, steps=2)
    editor.run()
    assert editor.video().evaluate("video => video.duration") > 0


def test_a_file_of_another_model_is_refused_on_its_loader(
    editor: Editor, tiny: dict, screenshot: Callable[[str], None]
):
    editor.open(tiny)
    editor.page.mouse.click(*editor.place(DIT, "file"))
    entries = editor.page.locator(".litecontextmenu .litemenu-entry")
    assert sorted(entries.all_inner_texts()) == sorted(["tiny (built in)", OTHER_MODEL])
    entries.get_by_text(OTHER_MODEL).click()
    assert editor.value(DIT, "file") == OTHER_MODEL

    editor.queue()
    said = editor.dialog()
    screenshot("dialog")
    assert OTHER_MODEL in said and "MochiParallelLoadDiT" in said, said
    assert "not a Mochi" in said, said
    editor.close_dialog()
    screenshot("canvas")
    assert editor.framed_as_wrong() == [DIT]


@pytest.mark.parametrize(
    ("node", "widget", "wrong", "message"),
    [
        (SAMPLER, "cfg_schedule", "6, six", "'6, six'"),
        (SAVE, "filename_prefix", "../../away", "leaves ComfyUI's output folder"),
    ],
)
def test_a_wrong_text_is_refused_on_its_node(
    editor: Editor, tiny: dict, node: int, widget: str, wrong: str, message: str
):
    editor.open(tiny)
    editor.type(node, widget, wrong)
    assert editor.value(node, widget) == wrong
    editor.queue()
    assert message in editor.dialog()
    assert editor.framed_as_wrong() == [node]


def test_an_error_of_a_run_is_on_its_node(editor: Editor, tiny: dict, screenshot: Callable[[str], None]):
    """Latents of an image model, which only the run can tell."""
    editor.open(tiny)
    editor.page.evaluate(
        """sampler => {
            const empty = LiteGraph.createNode('EmptyLatentImage'), node = app.graph.getNodeById(sampler)
            app.graph.add(empty)
            empty.connect(0, node, node.findInputSlot('latent'))
        }""",
        SAMPLER,
    )
    editor.run(until="execution_error")
    said = editor.dialog()
    screenshot("dialog")
    assert "The latent has 4 channels" in said and "MochiParallelSampler" in said, said
    editor.close_dialog()
    assert editor.framed_as_wrong() == [SAMPLER]
