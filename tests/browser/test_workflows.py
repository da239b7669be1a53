"""The workflows of the pack in the editor: as templates, and out of a saved video."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.comfyui import PACK_NAME, PROJECT
from tests.browser.conftest import WORKFLOWS, classic
from tests.browser.editor import NEW, AnyEditor
from tests.host.conftest import Comfy
from tests.host.test_server import DESCRIBED

EARLIER = PROJECT / "tests" / "host" / "inside" / "compatibility"
NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
FILES = ("LoadVideo", "LoadImage")
LOADED = "card => card.querySelector('img')?.naturalWidth > 0"
UNKNOWN = "() => app.graph.nodes.filter(node => !LiteGraph.registered_node_types[node.type]).map(node => node.type)"


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def queued(graph: dict[str, dict]) -> dict[str, tuple]:
    """What of a prompt decides its result."""
    return {number: (node["class_type"], node["inputs"]) for number, node in graph.items()}


def browse_templates(editor: AnyEditor) -> None:
    editor.command("Comfy.BrowseTemplates")
    # Without waiting for a moment in which none of the pictures moves.
    editor.page.get_by_role("dialog").get_by_text(PACK_NAME, exact=True).first.dispatch_event("click")
    editor.page.get_by_test_id(f"template-workflow-{NAMES[0]}").wait_for()


@classic
def test_templates_have_their_pictures(editor: AnyEditor, screenshot: Callable[[str], None]):
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


@pytest.fixture(scope="module")
def lacking(comfy: Comfy) -> dict[str, list[str]]:
    """The workflows with nodes that the server does not have, and which."""
    known = comfy.client.object_info()
    return {name: graph.lacking(known) for name, graph in DESCRIBED.items() if graph.lacking(known)}


def test_nodes_have_room_in_every_template(editor: AnyEditor, lacking: dict[str, list[str]]):
    for name in sorted(set(NAMES) - lacking.keys()):
        editor.open({**read(WORKFLOWS / f"{name}.json"), "extra": {}})  # without app mode, which draws no nodes
        assert editor.overlaps() == [], name


@classic
@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_as_it_is_queued(
    editor: AnyEditor, name: str, screenshot: Callable[[str], None], lacking: dict[str, list[str]]
):
    """No node is missing, no widget has the value of another; what the server lacks is offered to be downloaded."""
    if name in lacking:
        pytest.skip(f"this ComfyUI does not have {', '.join(lacking[name])}")
    workflow = read(WORKFLOWS / f"{name}.json")
    browse_templates(editor)
    editor.page.get_by_test_id(f"template-workflow-{name}").click()
    editor.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
    editor.page.get_by_test_id("template-workflows-content").wait_for(state="hidden")

    models = [model for node in workflow["nodes"] for model in node.get("properties", {}).get("models", [])]
    if models:
        said = editor.missing()
        assert all(model["directory"] in said and model["name"] in said for model in models), said
    editor.page.wait_for_function("() => !document.querySelector('[role=dialog]')")  # nothing else is missing
    screenshot("")
    assert editor.page.evaluate(UNKNOWN) == []
    # Today's editor frames the nodes whose files are not there.
    lacking = [n["id"] for n in workflow["nodes"] if n["type"] in FILES or n.get("properties", {}).get("models")]
    assert set(editor.framed_as_wrong()) <= set(lacking if NEW else [])
    assert queued(editor.prompt()) == queued(read(WORKFLOWS / "api" / f"{name}.json"))


@classic
@pytest.mark.parametrize("name", [name for name, graph in DESCRIBED.items() if graph.newer])
def test_a_template_says_which_nodes_an_older_comfyui_lacks(
    editor: AnyEditor, name: str, screenshot: Callable[[str], None], lacking: dict[str, list[str]]
):
    """The rest of its graph is there."""
    if name not in lacking:
        pytest.skip("this ComfyUI has all of its nodes")
    workflow = read(WORKFLOWS / f"{name}.json")
    browse_templates(editor)
    editor.page.get_by_test_id(f"template-workflow-{name}").click()
    editor.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
    missing_nodes = editor.page.get_by_role("dialog").filter(has_text=lacking[name][0])
    said = missing_nodes.inner_text()  # behind that of the models
    screenshot("")
    assert all(kind in said for kind in lacking[name]), said
    assert sorted(set(editor.page.evaluate(UNKNOWN))) == lacking[name]


@classic
@pytest.mark.parametrize("name", ["tiny_text_to_video", "tiny_edit", "mixed_with_builtin_nodes"])
def test_a_graph_with_the_ids_of_earlier_releases_opens(editor: AnyEditor, name: str):
    editor.open(read(EARLIER / f"{name}.json"))
    assert editor.page.evaluate(UNKNOWN) == []
    kinds = {node["class_type"] for node in editor.prompt().values()}
    earlier = {node["class_type"] for node in read(EARLIER / "api" / f"{name}.json").values()}
    assert kinds == {re.sub("^Mochi(?!Parallel)", "MochiParallel", kind) for kind in earlier}


@classic
def test_a_node_of_the_other_pack_stays_what_it_is(editor: AnyEditor):
    """ComfyUI-MochiWrapper has the id too that our sampler had."""
    graph = read(EARLIER / "tiny_text_to_video.json")
    (sampler,) = (node for node in graph["nodes"] if node["type"] == "MochiSampler")
    sampler["outputs"][0]["name"] = "samples"
    editor.open(graph)
    assert editor.page.evaluate("id => app.graph.getNodeById(id).type", sampler["id"]) == "MochiSampler"


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


@pytest.fixture(scope="module")
def signed(saved: dict[str, str], comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same mp4 with content credentials, in the server's output folder."""
    pytest.importorskip("c2pa")
    from mochi.provenance import Signer, read_credentials
    from tests.certificates import identity

    signed = comfy.output / "signed.mp4"
    signed.write_bytes((comfy.output / saved["mp4"]).read_bytes())
    Signer(identity(tmp_path_factory.mktemp("identity"))).seal({"model": ["tiny"]})(signed)
    assert read_credentials(signed)
    return signed


@pytest.fixture(params=["mp4", "webm", "signed mp4"])
def video(request: pytest.FixtureRequest, saved: dict[str, str], comfy: Comfy) -> Path:
    if request.param == "signed mp4":
        return request.getfixturevalue("signed")
    return comfy.output / saved[request.param]


def blank(editor: AnyEditor) -> None:
    editor.command("Comfy.NewBlankWorkflow")
    editor.page.wait_for_function("() => app.graph.nodes.length === 0")


def is_back(editor: AnyEditor) -> None:
    """The graph of the saved video is on the canvas."""
    workflow = read(WORKFLOWS / "tiny_text_to_video.json")
    editor.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
    assert queued(editor.prompt()) == queued(read(WORKFLOWS / "api" / "tiny_text_to_video.json"))


@classic
def test_a_dropped_video_brings_its_graph_back(editor: AnyEditor, video: Path):
    blank(editor)
    editor.drop(video)
    is_back(editor)


@classic
def test_a_signed_video_plays(editor: AnyEditor, signed: Path):
    play = """async name => {
        const video = document.createElement('video')
        video.muted = true
        video.src = `/api/view?type=output&filename=${name}`
        const ended = new Promise((resolve, reject) => {
            video.onended = () => resolve([video.videoWidth, video.videoHeight, video.duration])
            video.onerror = () => reject(video.error.message)
        })
        await video.play()
        return await ended
    }"""
    width, height, seconds = editor.page.evaluate(play, signed.name)
    assert (width, height) == (64, 64) and seconds == pytest.approx(7 / 12, abs=0.01)


@classic
def test_an_opened_video_brings_its_graph_back(editor: AnyEditor, video: Path):
    blank(editor)
    with editor.page.expect_file_chooser() as chooser:
        editor.command("Comfy.OpenWorkflow")
    chooser.value.set_files(video)
    is_back(editor)
