"""The page in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import av
import numpy as np
import pytest
from PIL import Image

from scripts.comfyui import CACHE
from tests.ui.conftest import LORA, Served, serving
from tests.ui.visitor import Visitor

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LONG = 2000
"""Steps that take longer than anything that a test does in the meantime."""


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Callable[[], Visitor]]:
    visitors: list[Visitor] = []

    def visit() -> Visitor:
        visitors.append(Visitor(browser, served.url))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        if visitor.page.is_enabled("#cancel"):
            visitor.page.click("#cancel")
            visitor.wait_for_text("cancelled")
        visitor.close()


def test_from_a_prompt_to_a_video_that_plays(visit: Callable[[], Visitor], served: Served) -> None:
    before = set(served.videos())
    visitor = visit()
    visitor.ask("a red circle moves left", seed=5, steps=60)
    visitor.wait_for_step(2)
    assert visitor.page.wait_for_selector("#shown img").get_attribute("src").startswith("data:image/jpeg")
    assert not visitor.page.is_enabled("#ask")
    assert visitor.wait_until_it_plays() == 64
    (CACHE / "screenshots").mkdir(parents=True, exist_ok=True)
    visitor.page.screenshot(path=CACHE / "screenshots" / "page.png", full_page=True)
    (video,) = set(served.videos()) - before
    record = json.loads(video.with_suffix(".json").read_text())
    assert (record["prompt"], record["seed"], record["steps"]) == ("a red circle moves left", 5, 60)
    with av.open(str(video)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    is_red = (first[..., 0] > 150) & (first[..., 1:].max(-1) < 100)
    assert 0.01 < np.mean(is_red) < 0.5
    visitor.page.click("text=Settings of this video")
    visitor.page.wait_for_selector("#record >> text=a red circle moves left")
    assert visitor.in_gallery() == 1
    assert visitor.errors == [] and visitor.hosts == {served.url.removeprefix("http://")}
    with pytest.raises(HTTPError, match="403"):  # only under the name that this visitor was told
        urlopen(f"{served.url}/gradio_api/file={quote(str(video))}")


def test_cancelled_within_a_step(visit: Callable[[], Visitor], served: Served) -> None:
    before = set(served.output.iterdir())
    visitor = visit()
    visitor.ask("a red circle moves left", steps=LONG)
    visitor.wait_for_step(3)
    visitor.page.click("#cancel")
    visitor.wait_for_text("cancelled")
    assert visitor.page.is_enabled("#ask")
    assert set(served.output.iterdir()) == before


def test_what_cannot_be_made_is_told(visit: Callable[[], Visitor]) -> None:
    visitor = visit()
    visitor.ask("a red circle moves left", width=50)
    visitor.wait_for_text("width is 50, but must be a multiple of 16")
    visitor.ask("a red circle moves left", width=64, seed="eleven")
    visitor.wait_for_text("seed is 'eleven', but must be a whole number")
    visitor.ask("a red circle moves left", seed="", steps=4)  # the same page goes on
    assert visitor.wait_until_it_plays() == 64


def test_a_picture_stays_as_it_was_given(visit: Callable[[], Visitor], tmp_path: Path) -> None:
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(clear)
    visitor = visit()
    visitor.give_picture(clear)
    visitor.ask("a red circle moves left", steps=4)
    visitor.wait_for_text("is transparent in places, which a video cannot be")


def test_two_visitors_at_once(visit: Callable[[], Visitor]) -> None:
    first, second = visit(), visit()
    first.ask("a red circle moves left", steps=LONG)
    first.wait_for_step(1)
    second.ask("a blue star moves up", steps=8)
    second.wait_for_text("waiting: 1 video is before yours")
    assert "waiting" not in first.page.inner_text("#shown")
    first.page.click("#cancel")
    assert second.wait_until_it_plays() == 64
    assert (first.in_gallery(), second.in_gallery()) == (0, 1)


def test_a_page_that_is_loaded_again_finds_its_run(visit: Callable[[], Visitor]) -> None:
    visitor = visit()
    visitor.ask("a blue star moves up", steps=150, seed=3)
    visitor.wait_for_step(2)
    visitor.page.reload()
    visitor.wait_for_step(3)
    for name, value in (("prompt", "a blue star moves up"), ("steps", "150"), ("seed", "3")):
        visitor.wait_for_value(name, value)
    assert visitor.wait_until_it_plays() == 64
    visitor.page.reload()
    assert visitor.wait_until_it_plays() == 64
    assert visitor.in_gallery() == 1


def test_only_those_who_know_the_password_come_in(browser: Browser, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("ada:engine\n")
    (tmp_path / "work").mkdir()
    with serving(tmp_path / "work", f"--auth=@{users}", "--listen=127.0.0.1") as served, browser.new_page() as page:
        page.goto(served.url)
        log_in(page, "ada", "wrong")
        page.wait_for_selector("text=/incorrect/i")
        assert page.locator("#prompt").count() == 0
        log_in(page, "ada", "engine")
        page.wait_for_selector("#prompt textarea")


def log_in(page: Page, name: str, password: str) -> None:
    page.fill("input:not([type=password])", name)
    page.fill("input[type=password]", password)
    page.click("button")


def test_a_picture_and_a_lora(visit: Callable[[], Visitor], served: Served, tmp_path: Path) -> None:
    white = tmp_path / "white.png"
    Image.new("RGB", (64, 64), (255, 255, 255)).save(white)
    visitor = visit()
    visitor.give_picture(white)
    visitor.page.click("text=LoRAs")
    visitor.page.fill(f"[aria-label*='{LORA}'][type=number], input[type=number][aria-label*='{LORA}']", "0.5")
    visitor.ask("a blue star moves up", steps=4, seed=1)
    assert visitor.wait_until_it_plays() == 64
    video = max(served.videos())
    record = json.loads(video.with_suffix(".json").read_text())
    (image,) = record["images"]
    assert Path(image["file"]).read_bytes() == white.read_bytes()  # kept beside the video, for the record
    assert Path(image["file"]).parent == served.output and (image["frame"], image["strength"]) == (0, 1)
    assert record["run"]["loras"] == [f"{served.lora}=0.5"]
    with av.open(str(video)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert first.mean() > 220
