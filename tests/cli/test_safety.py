"""`--safety`: a prompt on the list never reaches the sampler, a flagged frame never reaches the disk."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mochi import pipeline
from mochi.pipeline import Pipeline
from mochi.safety import guard
from mochi.video import encoders
from tests.toy_classifier import BLUE, RED, plain, write_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("classifiers") / "toy")


@pytest.fixture
def words(here: Path) -> str:
    Path("words.txt").write_text("# not here\ncat\n")
    return "--safety=words.txt"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def log_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_blocked_prompt_never_reaches_the_sampler(
    run, here: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "load_pipeline", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(Pipeline, "denoise", lambda *_: pytest.fail("the sampler was reached"))
    code, out, err = run("a ＣÁＴ", words, "--seed=5", "--output=out/clip.mp4")
    assert (code, out, err) == (2, "", "error: the prompt is blocked by the safety check words.txt: 'cat' (line 2)\n")
    assert names(here) == ["out", "words.txt"] and names(here / "out") == ["blocked.jsonl"]
    (entry,) = log_of(here / "out" / "blocked.jsonl")
    assert entry["settings"]["prompt"] == "a ＣÁＴ" and entry["settings"]["seed"] == 5
    assert (entry["check"], entry["reason"], entry["score"]) == ("words.txt", "'cat' (line 2)", None)


def test_the_negative_prompt_is_not_checked(run, here: Path, words: str) -> None:
    assert run("a dog", words, "--negative=cat", "--output=clip.mp4")[0] == 0
    assert names(here) == ["clip.json", "clip.mp4", "words.txt"]


def test_a_blocked_line_does_not_end_the_others(run, here: Path, words: str) -> None:
    Path("all.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("dog", "Cat", "bird")))
    code, out, err = run("--jsonl=all.jsonl", words)
    assert code == 2 and out.split() == ["all_0001.mp4", "all_0003.mp4"]
    assert "error: all.jsonl, line 2: the prompt is blocked" in err and "line 2 was not made" in err
    assert names(here) == [
        *("all.jsonl", "all_0001.json", "all_0001.mp4", "all_0003.json", "all_0003.mp4", "blocked.jsonl", "words.txt")
    ]
    assert [entry["settings"]["prompt"] for entry in log_of(here / "blocked.jsonl")] == ["Cat"]


@pytest.fixture
def turning_red(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """A decoder whose frames are red from the seventh of 13 on, and in the list what encoders are given."""

    def decode(self: Pipeline, latents: torch.Tensor, as_bytes: bool = False) -> Iterator[torch.Tensor]:
        yield from torch.cat([plain(BLUE, 6), plain(RED, 7)]).split([1, 6, 6])

    given: list[np.ndarray] = []
    for encoder in set(encoders.ENCODERS.values()):
        add = encoder.add

        def noted(self, frame, add=add):
            given.append(frame)
            add(self, frame)

        monkeypatch.setattr(encoder, "add", noted)
    monkeypatch.setattr(Pipeline, "decode", decode)
    return given


@pytest.mark.parametrize("output", ["clip.mp4", "clip.webm", "clip.gif", "clip.png"])
def test_a_flagged_frame_never_reaches_the_disk(run, here: Path, toy: Path, turning_red: list, output: str) -> None:
    Path("all.json").write_text(json.dumps({"images": {"model": str(toy), "every": 5}, "log": "log.jsonl"}))
    code, out, err = run("red", "--safety=all.json", "--frames=13", f"--output=out/{output}", "--fps=10")
    assert code == 2 and not out
    assert re.search(r"error: frame 10 is blocked by the safety check toy: it looks like 'nsfw' \(score [01]\.", err)
    assert names(here / "out") == [] and len(turning_red) == 6  # 0 and 5 have passed, 6 to 9 wait for 10
    assert all((frame == BLUE).all() for frame in turning_red)
    (entry,) = log_of(here / "log.jsonl")
    assert entry["frame"] == 10 and entry["score"] > 0.9 and entry["settings"]["frames"] == 13


def test_what_passes_is_byte_equal(run, here: Path, toy: Path, words: str) -> None:
    """And so is what nothing is asked about."""
    options = ["dog", "--seed=3", "--frames=13"]
    classifier = {"images": {"model": str(toy), "threshold": 1.0, "every": 4}}
    Path("all.json").write_text(json.dumps(classifier))
    for kind in ("mp4", "gif"):
        assert run(*options, f"--output=off.{kind}", "--fps=10")[0] == 0
        assert run(*options, f"--output=on.{kind}", "--fps=10", words, "--safety=all.json")[0] == 0
        assert Path(f"on.{kind}").read_bytes() == Path(f"off.{kind}").read_bytes()
    assert not Path("blocked.jsonl").exists()


def test_progress_ends_with_the_last_frame(run, here: Path, toy: Path) -> None:
    Path("all.json").write_text(json.dumps({"images": {"model": str(toy), "threshold": 1.0, "every": 50}}))
    code, _, err = run("dog", "--safety=all.json", "--output=a.mp4")
    assert code == 0 and "7/7" in err


def test_off_is_the_writer_itself(run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_Gate", lambda *_: pytest.fail("frames are held back"))
    assert run("cat", "--output=a.mp4")[0] == 0


BAD = {
    "safety is 'absent', but must be a list of words": ["--safety=absent"],
    "absent.txt: the list of words cannot be read": ["--safety=absent.txt"],
    "bad.txt, line 1: /\\(/ is no regular expression": ["--safety=bad.txt"],
    "folder: a classifier's folder must have model.safetensors": ["--safety=folder"],
    "nor is it in the hub's cache": ["--safety=some/model"],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_checks_end_before_anything_is_loaded(
    run, here: Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "load_pipeline", lambda *_: pytest.fail("weights were read"))
    Path("bad.txt").write_text("/(/")
    Path("folder").mkdir()
    code, out, err = run("red", *BAD[message])
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err), err
