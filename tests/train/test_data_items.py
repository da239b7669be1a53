"""What a person gives, and the buckets that it goes into: found, refused with the reason, cut as the settings say."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.config import PREVIEW, TINY
from mochi.errors import MochiError
from mochi.train.data.buckets import Bucket, best_size, bucket_of, window_starts
from mochi.train.data.items import Unusable, find_items
from mochi.train.data.reading import Footage
from mochi.train.data.settings import DataSettings

FPS = Fraction(30)


def test_folder(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.PNG", "c.gif", "d.webm", "e.mov", "notes.pdf", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder").mkdir()
    captions = {"b": "  a dog\n", "a": "\ufeffa cat, grüßend", "c": " \n", "lonely": "nobody"}
    for stem, caption in captions.items():
        (tmp_path / f"{stem}.txt").write_text(caption, encoding="utf-8")
    (tmp_path / "e.txt").write_bytes(b"\xff\xfe\x00")
    items, skipped = find_items(tmp_path)
    assert [(item.name, item.caption, item.is_image) for item in items] == [
        ("a.PNG", "a cat, grüßend", True),
        ("b.mp4", "a dog", False),
    ]
    assert dict(skipped) == {
        "c.gif": "its caption is empty",
        "d.webm": "no caption (d.txt)",
        "e.mov": "e.txt cannot be read: it is not text in UTF-8",
        "folder": "neither a clip nor an image of a known kind",
        "lonely.txt": "a caption without a clip or image",
        "notes.pdf": "neither a clip nor an image of a known kind",
    }


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lists(tmp_path: Path, kind: str) -> None:
    (tmp_path / "clips").mkdir()
    rows = [
        ("clips/b.mp4", 'two lines,\n"quoted"'),
        (str(tmp_path / "clips" / "a.mp4"), "absolute"),
        ("clips/b.mp4", "the same clip in other words"),
        ("absent.mp4", "gone"),
        ("clips/text.doc", "no clip"),
        ("clips/c.png", "  "),
    ]
    for name in ("a.mp4", "b.mp4", "text.doc", "c.png"):
        (tmp_path / "clips" / name).write_bytes(b"")
    file = tmp_path / f"list.{kind}"
    if kind == "csv":
        quoted = ['"' + caption.replace('"', '""') + '"' for _, caption in rows]
        lines = [f"{path},{caption},5" for (path, _), caption in zip(rows, quoted, strict=True)]
        file.write_text("\r\n".join(["path,caption,stars", *lines]), encoding="utf-8", newline="")
    else:
        file.write_text("\n\n".join(json.dumps({"path": path, "caption": caption}) for path, caption in rows))
    items, skipped = find_items(file)
    assert sorted((item.path.name, item.caption) for item in items) == [
        ("a.mp4", "absolute"),
        ("b.mp4", "the same clip in other words"),
        ("b.mp4", 'two lines,\n"quoted"'),
    ]
    assert [item.name for item in items] == sorted(item.name for item in items)
    assert dict(skipped) == {
        "absent.mp4": "there is no such file",
        "clips/text.doc": "neither a clip nor an image of a known kind",
        "clips/c.png": "its caption is empty",
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "file,text\nx.mp4,hello\n", r"a.csv: its first row has the columns file, text\. Expected are clips"),
        ("a.csv", "", "has the columns none"),
        ("a.csv", "path,caption\n,hello\n", "line 2: it has no path"),
        ("a.jsonl", '{"path": "x.mp4", "caption": "a"}\n{path: 1}', "line 2: not JSON"),
        (
            "a.csv",
            'path,caption\nx.mp4,"' + 2**18 * "a",
            "a.csv, after line 1: not a table .*; a quote may not be closed",
        ),
        ("a.jsonl", "[1, 2]", "line 1: .* is no object"),
        ("a.jsonl", '{"path": 3}', "line 1: it has no path"),
        ("a.jsonl", '{"path": "x.mp4", "caption": 3}', "line 1: the caption is 3, but must be a text"),
        ("a.jsonl", '{"path": "x.mp4"}', "nothing in it to train on; x.mp4: no caption|no such file"),
        ("a.zip", "", "neither a folder nor a .csv or .jsonl file"),
    ],
)
def test_bad_lists(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MochiError, match=message):
        find_items(tmp_path / name)


def test_half_a_character_in_a_caption(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "list.jsonl").write_text(
        '{"path": "a.png", "caption": "half \\ud83d"}\n{"path": "a.png", "caption": "b"}'
    )
    items, ((name, reason),) = find_items(tmp_path / "list.jsonl")
    assert len(items) == 1 and name == "a.png" and "its caption has '\\ud83d' as character 6" in reason


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(MochiError, match="cannot be read: Permission denied"):
        find_items(tmp_path)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(MochiError, match=r"nothing in it to train on: it is empty\. Expected are clips"):
        find_items(tmp_path)
    with pytest.raises(MochiError, match="there is no such folder or file"):
        find_items(tmp_path / "absent")
    for number in range(9):
        (tmp_path / f"{number}.mp4").write_bytes(b"")
    with pytest.raises(MochiError, match=r"0.mp4: no caption \(0.txt\).* and 5 more reasons"):
        find_items(tmp_path)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"sizes": [(64, 60)]}, r"height is 60, but must be a multiple of 16: the nearest is 64"),
        ({"sizes": [(64, 64), (850, 480)]}, "width is 850.* nearest is 848"),
        ({"sizes": [64]}, "sizes has 64, but must have pairs"),
        ({"sizes": []}, "sizes is empty"),
        ({"frames": [24]}, r"frames is 24, but Mochi makes 6k \+ 1 frames .*the nearest is 25"),
        ({"frames": ["25"]}, "frames has '25', but must have whole numbers"),
        ({"frames": []}, "frames is empty"),
        ({"windows": 0}, "windows is 0, but must be a whole number, 1 or more"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_bad_settings(chosen: dict, message: str) -> None:
    with pytest.raises(MochiError, match=message):
        DataSettings.of(TINY, **chosen)


def test_usual_settings() -> None:
    assert DataSettings.of(TINY) == DataSettings(((64, 64),), (25,), 1, 0)
    assert DataSettings.of(PREVIEW) == DataSettings(((848, 480),), (37,), 1, 0)


@pytest.mark.parametrize(
    ("picture", "sizes", "best"),
    [
        ((1920, 1080), [(848, 480), (480, 848), (480, 480)], (848, 480)),
        ((1080, 1920), [(848, 480), (480, 848), (480, 480)], (480, 848)),
        ((1000, 1010), [(848, 480), (480, 848), (480, 480)], (480, 480)),
        ((1920, 1080), [(640, 368), (848, 480)], (848, 480)),  # of those that enlarge nothing, the best ratio
        ((640, 360), [(640, 368), (848, 480)], (640, 368)),  # nearly as good, and hardly enlarged
        ((320, 180), [(848, 480), (256, 256)], (848, 480)),  # but nobody crops half a picture away for that
        ((512, 512), [(64, 64), (128, 128), (256, 256)], (256, 256)),
        ((100, 100), [(64, 64), (128, 128)], (64, 64)),
    ],
)
def test_best_size(picture: tuple[int, int], sizes: list[tuple[int, int]], best: tuple[int, int]) -> None:
    assert best_size(*picture, tuple(sizes)) == best_size(*picture, tuple(reversed(sizes))) == best


def clip(frames: int, pictures: int | None = None) -> Footage:
    """Of so many frames at the model's rate."""
    return Footage(64, 64, pictures or frames, seconds=Fraction(frames, 30))


def test_lengths() -> None:
    settings = DataSettings(((64, 64),), (25, 13, 37))
    for frames, length in ((100, 37), (37, 37), (36, 25), (13, 13), (12, 7), (7, 7)):
        assert bucket_of(clip(frames), False, FPS, settings) == Bucket(64, 64, length)
    assert bucket_of(Footage(64, 64), True, FPS, settings) == Bucket(64, 64, 1)
    with pytest.raises(Unusable, match="it has 6 frames at 30 a second, but must have 7 at least"):
        bucket_of(clip(6), False, FPS, settings)
    with pytest.raises(Unusable, match="a clip of one frame; save it as an image"):
        bucket_of(clip(1), False, FPS, settings)
    assert bucket_of(clip(6), False, FPS, DataSettings(((64, 64),), (1, 25))).frames == 1  # stills are wanted


@given(st.integers(1, 400), st.integers(1, 200), st.integers(1, 9), st.integers())
def test_windows(frames: int, length: int, windows: int, seed: int) -> None:
    length = min(length, frames)
    starts = window_starts(frames, length, windows, str(seed))
    places = frames - length + 1
    assert starts == window_starts(frames, length, windows, str(seed)) and 1 <= len(starts) <= windows
    assert len(starts) == windows or len(starts) * length / 2 >= frames - length or len(starts) == places
    for part, start in enumerate(starts):  # one in each of as many parts
        assert math.floor(part * places / len(starts)) <= start < math.ceil((part + 1) * places / len(starts))
    assert len(set(starts)) == len(starts)


def test_windows_are_anywhere() -> None:
    found = {start for seed in range(400) for start in window_starts(30, 25, 1, str(seed))}
    assert found == set(range(6))
