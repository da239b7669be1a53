"""What a person names becomes checks; other packages bring their own."""

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from mochi.crossing import decode, encode
from mochi.errors import Blocked, MochiError
from mochi.safety import Finding, SafetySettings
from mochi.safety.images import Classifier
from tests.toy_classifier import BLUE, RED, plain


class Own:
    """A check as another package would have it."""

    def __init__(self, word: str = "cat"):
        self.word = word

    def check_prompt(self, text: str) -> Finding | None:
        return Finding("no cats") if self.word in text else None

    def check_frames(self, frames) -> None: ...


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Entry points of an installed package, by their names."""
    made: dict = {"cats": Own, "broken": lambda: 1 / 0, "half": lambda: SimpleNamespace(check_prompt=print)}
    entries = [SimpleNamespace(name=name, load=lambda make=make: make) for name, make in made.items()]
    monkeypatch.setattr("mochi.safety.plugins.entry_points", lambda group: entries if group == "mochi.safety" else [])
    return made


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("nude\n")
    return tmp_path / "words.txt"


def test_several(words: Path, toy: Path, plugins: dict) -> None:
    settings = SafetySettings.of(["words.txt", str(toy), "cats"])
    copy = decode(encode(settings))
    words.unlink()  # what is in it has been read
    assert copy == settings
    guard = copy.guard()
    guard.check_prompt("a dog", {})
    guard.check_frames(plain(BLUE, 3), {})
    for prompt, name in {"nude": "words.txt: 'nude'", "a cat": "cats: no cats"}.items():
        for each in (guard, copy.guard_of_prompts()):
            with pytest.raises(Blocked, match=f"the safety check {name}"):
                each.check_prompt(prompt, {})
    with pytest.raises(Blocked, match="frame 0 is blocked by the safety check toy: it looks like 'nsfw'"):
        guard.check_frames(plain(RED, 3), {})
    copy.guard_of_prompts().check_frames(plain(RED, 3), {})


def test_a_file_of_settings(words: Path, toy: Path, plugins: dict, tmp_path: Path) -> None:
    """Its paths are relative to it."""
    folder = tmp_path / "config"
    folder.mkdir()
    words.rename(folder / "words.txt")
    toy_here = folder / "toy"
    toy_here.symlink_to(toy)
    images = {"model": "toy", "labels": ["nsfw"], "threshold": 0.7, "every": 4}
    data = {"words": "words.txt", "images": images, "plugins": {"cats": {"word": "lion"}}, "log": "log/blocked.jsonl"}
    (folder / "all.json").write_text(json.dumps(data))
    settings = SafetySettings.of(["config/all.json"])
    assert settings.images == (Classifier(str(toy_here), ("nsfw",), 0.7, 4),)
    assert settings.log == folder / "log" / "blocked.jsonl" and settings.guard_of_prompts().log == settings.log
    for prompt in ("nude", "a lion"):
        with pytest.raises(Blocked):
            settings.guard_of_prompts().check_prompt(prompt, {})
    settings.guard_of_prompts().check_prompt("a cat", {})


BAD = {
    "there is no check in it": {},
    "it has image, but can have words, images": {"image": []},
    "it is list, but must be an object": [],
    "images has no model": {"images": {"threshold": 1}},
    "images has folder, but can have model": {"images": {"folder": "x"}},
    "absent: there is no such folder": {"images": {"model": "absent"}},
    "words is 3": {"words": 3},
    "absent.txt: the list of words cannot be read": {"words": ["words.txt", "absent.txt"]},
    "log is 3": {"words": "words.txt", "log": 3},
    "there is a folder of that name": {"words": "words.txt", "log": "."},
    "no safety check 'dogs' is installed; there are: broken, cats, half": {"plugins": {"dogs": {}}},
    "cats is str, but must be an object": {"plugins": {"cats": "x"}},
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_file_of_settings(message: str, words: Path, plugins: dict) -> None:
    Path("bad.json").write_text(json.dumps(BAD[message]))
    with pytest.raises(MochiError, match=f"^bad.json: .*{message}"):
        SafetySettings.of(["bad.json"])


def test_what_is_nothing(words: Path, plugins: dict) -> None:
    with pytest.raises(MochiError, match=r"safety is 'dogs', but must be .* an installed check \(broken, cats, half\)"):
        SafetySettings.of(["dogs"])
    with pytest.raises(MochiError, match="safety is ''"):
        SafetySettings.of([""])
    with pytest.raises(MochiError, match="never fetched"):
        SafetySettings.of(["some/model"])
    Path("bad.json").write_text("{")
    with pytest.raises(MochiError, match=r"bad\.json: no JSON"):
        SafetySettings.of(["bad.json"])


def test_a_check_that_cannot_start(plugins: dict) -> None:
    with pytest.raises(MochiError, match="the safety check broken cannot start: ZeroDivisionError"):
        SafetySettings.of(["broken"]).guard()
    with pytest.raises(MochiError, match="half has no check_prompt and check_frames"):
        SafetySettings.of(["half"]).guard()


def test_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real entry point, as an installer writes it."""
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mochi.safety]\nfelines = own_checks:make\n")
    (tmp_path / "own_checks.py").write_text(
        "from mochi.safety import Finding\n\n\nclass Cats:\n    def check_prompt(self, text):\n"
        "        return Finding('no cats') if 'cat' in text else None\n\n    def check_frames(self, frames):\n"
        "        return None\n\n\ndef make():\n    return Cats()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert any(entry.name == "felines" for entry in metadata.entry_points(group="mochi.safety"))
    with pytest.raises(Blocked, match="felines: no cats"):
        SafetySettings.of(["felines"]).guard().check_prompt("a cat", {})
