"""`python -m mochi ui --safety WHAT --sign FILE`: what is blocked never reaches the sampler or the disk."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mochi.cli import ui
from mochi.cli.main import parser
from mochi.pipeline import Pipeline
from mochi.provenance.reader import read_credentials
from mochi.ui.desk import Desk
from mochi.ui.maker import make_runs
from mochi.ui.shown import Phase, View
from tests.certificates import identity
from tests.toy_classifier import BLUE, RED, plain, write_toy

ASKED = {"prompt": "a red circle", "steps": 1, "frames": 13, "width": 32, "height": 32, "seed": 1}


class Done(Exception):
    """Nobody waits any more."""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., View]:
    """Asks for a video as the page does, has it made, and returns what the visitor sees then."""
    monkeypatch.setattr("mochi.ui.owner.Page", lambda: SimpleNamespace())
    monkeypatch.setattr("mochi.ui.maker.LOOK", 0.01)

    def make(*options: str, **asked: object) -> View:
        arguments = ["ui", "--device=cpu", f"--folder={tmp_path / 'videos'}", *options]
        workshop, offer = ui.prepare(parser("ui").parse_args(arguments))
        desk = Desk(offer, workshop.defaults, tmp_path / "videos", ui.check_of(workshop))
        complaint = desk.ask("me", {**ASKED, **asked})
        if complaint:
            return View(phase=Phase.FAILED, text=complaint)

        def check() -> None:
            view = desk.view("me", -1)
            if view is not None and not view.is_busy:
                raise Done

        with pytest.raises(Done):
            make_runs(desk, workshop, check)
        view = desk.view("me", -1)
        assert view is not None
        return view

    return make


def test_a_blocked_prompt_is_not_queued(make: Callable[..., View], tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\n")
    view = make(f"--safety={tmp_path / 'words.txt'}", prompt="a Cat")
    assert "the prompt is blocked by the safety check words.txt" in view.text
    (entry,) = map(json.loads, (tmp_path / "videos" / "blocked.jsonl").read_text().splitlines())
    assert entry["settings"]["prompt"] == "a Cat"


@pytest.mark.parametrize("colour", [RED, BLUE])
def test_a_flagged_frame_never_reaches_the_disk(
    make: Callable[..., View], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colour: tuple[int, int, int]
) -> None:
    def decode(self: Pipeline, latents: torch.Tensor, as_bytes: bool = False) -> Iterator[torch.Tensor]:
        yield from torch.cat([plain(BLUE, 6), plain(colour, 7)]).split([1, 6, 6])

    monkeypatch.setattr(Pipeline, "decode", decode)
    monkeypatch.setattr("mochi.ui.maker.preview", lambda *_: pytest.fail("what nobody has checked is shown"))
    view = make(f"--safety={write_toy(tmp_path / 'toy')}")
    kinds = sorted(path.suffix for path in (tmp_path / "videos").iterdir())
    if colour == RED:
        assert view.phase is Phase.FAILED and "blocked by the safety check toy: it looks like 'nsfw'" in view.text
        assert kinds == [".jsonl"]
    else:
        assert view.phase is Phase.DONE and kinds == [".json", ".mp4"]


def test_videos_are_signed(make: Callable[..., View], tmp_path: Path) -> None:
    view = make(f"--sign={identity(tmp_path)}")
    credentials = read_credentials(Path(view.videos[0].path))
    assert credentials is not None and credentials.matches and credentials.signed_by == "Jo Maker"
    assert credentials.settings["prompt"] == "a red circle"
    assert json.loads(view.videos[0].record)["run"]["signed_by"] == "Jo Maker"
