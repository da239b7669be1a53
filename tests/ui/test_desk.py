"""The queue of the page, and who makes what is in it, without a page."""

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mochi.batch.record import Recipe
from mochi.batch.requests import LoadPipeline
from mochi.config import PREVIEW, TINY
from mochi.errors import Cancelled, GroupError, MochiError
from mochi.model_dir import find_model
from mochi.pipeline import Pipeline
from mochi.settings import GenerateSettings
from mochi.ui import maker
from mochi.ui.desk import Desk
from mochi.ui.maker import Workshop, make_runs
from mochi.ui.preview import preview
from mochi.ui.shown import Offer, Phase, View

ASKED = {"prompt": "a red circle", "steps": 3, "frames": 7, "seed": 1}


def view(desk: Desk, visitor: str) -> View:
    found = desk.view(visitor, -1)
    assert found is not None
    return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(Offer("tiny", {}), TINY.defaults, tmp_path, lambda job: job.settings.check_depth(TINY.dit.depth))


def test_first_come_first_served(desk: Desk) -> None:
    for visitor in "abc":
        assert desk.ask(visitor, {**ASKED, "prompt": visitor}) == ""
    assert view(desk, "c").text == "waiting: 2 videos are before yours"
    served = desk.next(0)
    assert served is not None and served.job.settings.prompt == "a"
    assert view(desk, "c").text == "waiting: 2 videos are before yours"
    desk.cancel("b")
    assert view(desk, "b").phase is Phase.CANCELLED
    assert view(desk, "c").text == "waiting: 1 video is before yours"
    last = desk.next(0)
    assert last is not None and last.visitor == "c" and desk.next(0) is None


def test_one_video_of_a_visitor_at_a_time(desk: Desk) -> None:
    assert desk.ask("a", ASKED) == ""
    assert "wait for it, or cancel it" in desk.ask("a", ASKED)
    desk.cancel("a")
    assert desk.ask("a", ASKED) == ""


def test_nobody_sees_what_others_ask_for(desk: Desk) -> None:
    desk.ask("a", ASKED)
    assert view(desk, "b") == View()


def test_closing_leaves_no_picture_without_its_video(desk: Desk, tmp_path: Path) -> None:
    given = tmp_path / "upload" / "green.png"
    given.parent.mkdir()
    Image.new("RGB", (64, 64), (0, 160, 0)).save(given)
    for visitor in "ab":
        assert desk.ask(visitor, {**ASKED, "images": [{"file": str(given)}]}) == ""
    desk.next(0)
    desk.close()
    assert [path.name for path in tmp_path.iterdir()] == ["upload"]
    assert [view(desk, visitor).text for visitor in "ab"] == ["the page was closed"] * 2


def test_what_is_seen_already_is_not_told_again(desk: Desk) -> None:
    assert desk.view("a", View().version) is None
    desk.ask("a", ASKED)
    seen = view(desk, "a").version
    assert desk.view("a", seen) is None
    desk.cancel("a")
    assert desk.view("a", seen) is not None


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"frames": 8}, "frames is 8"),
        ({"prompt": 7}, "prompt is 7"),
        ({"stg": 1, "stg_layers": [99]}, "99"),
        ({"images": [{"file": "gone.png"}]}, "gone.png"),
        ({"sauce": 1}, "unknown setting sauce"),
    ],
)
def test_what_cannot_be_made_is_not_queued(desk: Desk, asked: Mapping[str, Any], complaint: str) -> None:
    assert complaint in desk.ask("a", {**ASKED, **asked})
    assert desk.next(0) is None and view(desk, "a") == View()


def test_a_picture_is_kept_beside_the_video(desk: Desk, tmp_path: Path) -> None:
    given = tmp_path / "upload" / "green.png"
    given.parent.mkdir()
    Image.new("RGB", (64, 64), (0, 160, 0)).save(given)
    desk.ask("a", {**ASKED, "images": [{"file": str(given), "frame": -1, "strength": 0.5}]})
    run = desk.next(0)
    assert run is not None
    (image,) = run.job.settings.images
    assert image.file == str(run.job.video.with_suffix("")) + "_image_1.png"
    assert Path(image.file).read_bytes() == given.read_bytes() and (image.frame, image.strength) == (-1, 0.5)
    desk.failed(run, "the disk is full")
    assert [path.name for path in tmp_path.iterdir()] == ["upload"]  # nor does it stay without the video


@dataclass
class Kitchen:
    """A thread that makes what is asked for, by a pipeline that does what `todo` says for each video."""

    desk: Desk
    todo: list[Exception | None] = field(default_factory=list)
    opened: int = 0
    changed: threading.Event = field(default_factory=threading.Event)

    def open(self, *_: Any) -> Pipeline:
        self.opened += 1
        return SimpleNamespace(use_loras=lambda loras: None, close=lambda: None)  # pyright: ignore[reportReturnType]

    def make(self, pipeline: Pipeline, settings: GenerateSettings, output: Path, *_: Any, **__: Any) -> Any:
        error = self.todo.pop(0)
        if error is not None:
            raise error
        output.write_bytes(b"video")
        return SimpleNamespace(facts={}, cache="")


@pytest.fixture
def kitchen(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kitchen]:
    kitchen = Kitchen(desk)
    monkeypatch.setattr(maker, "open_pipeline", kitchen.open)
    monkeypatch.setattr(maker, "make_video", kitchen.make)
    monkeypatch.setattr(maker, "LOOK", 0.01)
    workshop = Workshop(find_model(), TINY.defaults, LoadPipeline(), Recipe("tiny", "preview"))
    is_over = threading.Event()

    def check() -> None:
        if is_over.is_set():
            raise Cancelled

    def work() -> None:
        with pytest.raises(Cancelled):
            make_runs(desk, workshop, check)

    thread = threading.Thread(target=work)
    thread.start()
    yield kitchen
    is_over.set()
    thread.join(30)
    assert not thread.is_alive()


def until(desk: Desk, visitor: str, is_there: Callable[[View], bool]) -> View:
    for _ in range(3000):
        if is_there(found := view(desk, visitor)):
            return found
        threading.Event().wait(0.01)
    raise AssertionError(f"still {view(desk, visitor)}")


@pytest.mark.parametrize(
    ("error", "text", "opened"),
    [
        (MochiError("the disk is full"), "the disk is full", 1),
        (GroupError("Rank 1 died.\nIts log"), "Rank 1 died. (the terminal says more)", 2),
        (RuntimeError("out of memory"), "RuntimeError: out of memory (the terminal says more)", 2),
    ],
)
def test_after_a_failure_the_next_is_made(kitchen: Kitchen, error: Exception, text: str, opened: int) -> None:
    kitchen.todo += [error, None]
    kitchen.desk.ask("a", ASKED)
    kitchen.desk.ask("b", ASKED)
    assert until(kitchen.desk, "a", lambda seen: seen.phase is Phase.FAILED).text == text
    made = until(kitchen.desk, "b", lambda seen: seen.phase is Phase.DONE)
    assert Path(made.videos[0].path).read_bytes() == b"video" and '"seed": 1' in made.videos[0].record
    assert kitchen.opened == opened


def test_cancelled_while_it_is_made(kitchen: Kitchen) -> None:
    kitchen.todo.append(Cancelled())
    kitchen.desk.ask("a", ASKED)
    assert until(kitchen.desk, "a", lambda seen: not seen.is_busy).phase is Phase.CANCELLED


@pytest.mark.parametrize("stats", [TINY.latents, PREVIEW.latents], ids=["known colours", "unknown colours"])
def test_a_preview_shows_where_something_is(stats: Any) -> None:
    estimate = torch.zeros(1, 12, 3, 8, 16)
    estimate[:, :, :, :, 8:] = torch.linspace(-2, 2, 12)[:, None, None, None]
    with Image.open(io.BytesIO(preview(estimate, stats))) as picture:
        left, right = np.asarray(picture.resize((2, 1), Image.Resampling.BOX), dtype=int)[0]
    assert picture.size == (384, 192)
    assert np.abs(left - right).max() > 60
