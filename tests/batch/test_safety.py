"""Safety checks in workers: what is blocked there ends its own line only, and is written down here."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mochi.batch.requests import LoadPipeline, MakeVideo
from mochi.batch.scheduler import run_batch
from mochi.errors import Blocked, MochiError
from mochi.safety import SafetySettings
from tests.batch.helpers import LOAD, RECIPE, Here, LocalPlace, Memory, job, names, results
from tests.batch.toy_maker import Toy
from tests.parallel.helpers import gone
from tests.toy_classifier import write_toy


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("classifiers") / "toy")


def test_what_is_blocked_ends_its_own_line(tmp_path: Path, private_tmp: Path, classifier: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("cat\n")
    load = replace(LOAD, safety=SafetySettings.of([str(classifier), str(words)]))
    asked = [job(tmp_path / "out" / f"blue_{line}.{kind}", line, "blue") for line, kind in ((1, "mp4"), (2, "png"))]
    asked += [job(tmp_path / "out" / name, line, "turns red") for line, name in ((3, "red.gif"), (4, "red_4.png"))]
    asked += [job(tmp_path / "out" / "cat.mp4", 5, "a cat")]
    place, watcher = LocalPlace("box/0", "box"), Memory()
    wrong = run_batch(asked, Here(place), load, RECIPE, watcher)
    assert wrong.keys() == {3, 4, 5} and not watcher.troubles
    for line in (3, 4):
        assert type(wrong[line]) is Blocked
        assert str(wrong[line]).startswith("frame 6 is blocked by the safety check toy: it looks like 'nsfw' (score ")
    assert names(tmp_path / "out") == sorted(["blocked.jsonl", *results(*asked[:2])])
    lines = (tmp_path / "out" / "blocked.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert Counter((entry["check"], entry["frame"], entry["settings"]["prompt"]) for entry in entries) == {
        ("toy", 6, "turns red"): 2,
        ("words.txt", None, "a cat"): 1,
    }
    assert sorted(entry["settings"]["seed"] for entry in entries) == [3, 4, 5]
    assert all(entry["score"] > 0.9 for entry in entries if entry["check"] == "toy")
    assert len(place.groups) == 1 and gone(place.pids)


@pytest.fixture
def toy(private_tmp: Path) -> Toy:
    return Toy(SimpleNamespace(emit=lambda told: None, asked_to_cancel=lambda: False))  # pyright: ignore


@pytest.mark.parametrize("output", ["clip.mp4", "clip.png"])
def test_nothing_gets_to_a_shared_folder(toy: Toy, tmp_path: Path, classifier: Path, output: str) -> None:
    """Every third frame is looked at: 0 and 3 are blue, 6 is red."""
    (tmp_path / "all.json").write_text(json.dumps({"images": {"model": str(classifier), "every": 3}}))
    toy.handle(LoadPipeline(safety=SafetySettings.of([str(tmp_path / "all.json")])))
    folder = tmp_path / "shared"
    folder.mkdir()
    settings = job(output, prompt="turns red").settings
    with pytest.raises(Blocked, match="frame 6"):
        toy.handle(MakeVideo(settings, folder / output, 70, shared=True))
    assert names(folder) == [] and names(toy._scratch.path) == []
    toy.handle(LoadPipeline())  # without a check
    toy.handle(MakeVideo(settings, folder / output, 70, shared=True))
    assert len(names(folder)) == 1


def test_a_machine_without_the_classifier_says_so(toy: Toy, tmp_path: Path, classifier: Path) -> None:
    link = tmp_path / "toy"
    link.symlink_to(classifier)
    checks = SafetySettings.of([str(link)])
    link.unlink()
    with pytest.raises(MochiError, match="toy: there is no such folder of a classifier"):
        toy.handle(LoadPipeline(safety=checks))
