"""Mochi Cluster Batch, as a person sees it."""

from collections.abc import Callable, Iterator

import pytest

from scripts.editor import kind_of
from tests.browser.conftest import classic
from tests.browser.editor import AnyEditor
from tests.raylets import Raylets, needs_ray, raylets

ADD = """() => {
    app.graph.clear()
    const node = LiteGraph.createNode('MochiParallelBatch')
    node.size = [500, 900]
    app.graph.add(node)
    return Number(node.id)
}"""
LINES = "a red circle moves left\na blue star moves up\na green square"


@pytest.fixture(scope="module")
def cluster(has_browser: None) -> Iterator[Raylets]:
    with raylets(1) as running:
        yield running


@needs_ray
@classic
def test_videos_are_shown_as_they_come(editor: AnyEditor, cluster: Raylets, screenshot: Callable[[str], None]):
    node = editor.page.evaluate(ADD)
    editor.set(node, prompts=LINES, cluster=cluster.address, filename_prefix="batch/clip", steps=30)
    editor.fit()
    editor.run(until="executed")
    assert editor.video().evaluate("video => video.duration") > 0
    assert editor.shows_video(node) and "of 3 videos" in editor.told(node)
    screenshot("while it runs")
    assert "execution_success" not in map(kind_of, editor.frames)
    with editor.message("execution_success", timeout=120):
        pass
    screenshot("at its end")
    assert "made 3" in editor.told(node)
    assert editor.framed_as_wrong() == []
