"""Mochi Train LoRA, as a person sees it."""

import re
from collections.abc import Callable

from scripts.editor import kind_of
from tests.browser.conftest import Comfy
from tests.browser.editor import AnyEditor
from tests.train.toy_trainer import write_clips

ADD = """() => {
    app.graph.clear()
    const node = LiteGraph.createNode('MochiParallelTrainLoRA')
    node.size = [480, 1400]
    app.graph.add(node)
    return Number(node.id)
}"""
SIZES = """([id, nodes2]) => (nodes2 ? [...document.querySelectorAll(`[data-node-id="${id}"] img`)]
    : app.graph.getNodeById(id).imgs ?? []).map(picture => picture.naturalWidth)"""


def test_the_curve_and_sample_clips_are_shown(editor: AnyEditor, comfy: Comfy, screenshot: Callable[[str], None]):
    write_clips(comfy.base / "input" / "shown", "a red circle moves left", "a blue star moves up")
    node = editor.page.evaluate(ADD)
    name = f"shown_{editor.nodes_2}"
    widgets = {"steps": 6, "rank": 4, "alpha": 4, "sample_every": 3, "sample_prompts": "a red circle"}
    editor.set(node, data="shown", name=name, width=48, height=32, frames=7, **widgets)
    editor.fit()
    editor.run(until="executed", timeout=300)  # the curve of the first steps
    editor.page.wait_for_function(f"args => ({SIZES})(args).includes(480)", arg=[node, editor.nodes_2])
    assert re.match(r"step \d+ of 6 · loss \d", editor.told(node)), editor.told(node)
    with editor.message("execution_success", timeout=300):
        screenshot("while it runs")
        assert "execution_success" not in map(kind_of, editor.frames)
    editor.fit()
    if not editor.nodes_2:  # which shows one picture at a time
        editor.page.wait_for_function(f"args => String(({SIZES})(args)) === '480,48'", arg=[node, False])
    screenshot("at its end")
    assert f"{name}.safetensors: step 6 of 6" in editor.told(node)
    assert editor.framed_as_wrong() == []
