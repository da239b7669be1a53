"""ComfyUI's editor in a real browser, with the pack in it. One server for all tests of this folder, one page for each.

A picture of the page goes to `.cache/screenshots` when a test fails, and where a test asks for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from scripts.client import ComfyClient
from scripts.comfyui import CACHE, PROJECT, prepare_base
from scripts.editor import SIZE, Editor, NoBrowser, chromium, write_settings
from scripts.server import ComfyServer
from tests.host.conftest import Comfy, comfyui_path  # noqa: F401  (a fixture)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

SCREENSHOTS = CACHE / "screenshots"
OTHER_MODEL = "other_model.safetensors"
WORKFLOWS = PROJECT / "workflows"


@pytest.fixture(scope="session")
def has_browser() -> None:
    """Asked before a server is started for nothing."""
    try:
        with chromium():
            pass
    except NoBrowser as reason:
        pytest.skip(f"no browser to test in: {reason}")


@pytest.fixture(scope="module")
def browser(has_browser: None) -> Iterator[Browser]:
    """Closed after each file: while it is open, this thread cannot run an asyncio loop of its own."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def comfy(
    has_browser: None,
    comfyui_path: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Comfy]:
    """A server with a file among its models that is of another model."""
    base = prepare_base(tmp_path_factory.mktemp("editor"))
    write_settings(base)
    (base / "models" / "diffusion_models").mkdir(parents=True)
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}
    save_file(weights, base / "models" / "diffusion_models" / OTHER_MODEL)
    with ComfyServer(comfyui_path, base, cpu=True) as server:
        yield Comfy(server, ComfyClient(server.url), base)


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """What the pages of a file share: the browser's cache."""
    with browser.new_context(viewport=SIZE) as context:
        context.set_default_timeout(30_000)
        yield context


@pytest.fixture
def editor(context: BrowserContext, comfy: Comfy, request: pytest.FixtureRequest) -> Iterator[Editor]:
    """A fresh page with the editor."""
    with context.new_page() as page:
        editor = Editor(page, comfy.server.url).start()
        failures = request.session.testsfailed
        yield editor
        if request.session.testsfailed > failures:
            page.screenshot(path=picture(request.node.name))


@pytest.fixture
def screenshot(editor: Editor, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`screenshot("after the run")` keeps a picture of the page as it is now."""
    return lambda moment: editor.page.screenshot(path=picture(f"{request.node.name} {moment}"))


@pytest.fixture
def tiny() -> dict:
    """The tiny text-to-video graph, in the editor's format, the same noise each time."""
    workflow = json.loads((WORKFLOWS / "tiny_text_to_video.json").read_text(encoding="utf-8"))
    sampler = next(node for node in workflow["nodes"] if node["type"] == "MochiParallelSampler")
    sampler["widgets_values"][1] = "fixed"
    return workflow


def picture(name: str) -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS / f"{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')}.png"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts a real ComfyUI: `-m "not host"` leaves it out."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.host)
