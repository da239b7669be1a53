"""Names and places of videos: what the system takes is written, and what it does not is refused beforehand."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.errors import MochiError
from mochi.video import FORMATS, VideoWriter, check_writable
from mochi.video.names import flaw_of, made_storable

FRAME = torch.zeros(1, 48, 64, 3)


LONGEST = os.pathconf("/", "PC_NAME_MAX") if hasattr(os, "pathconf") else 255


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("letter", ["a", "é", "字"])
def test_names_as_long_as_the_system_takes(format: str, letter: str, tmp_path: Path) -> None:
    suffix = f".{format}" if format != "png" else ""
    width = len(letter.encode())
    name = letter * ((LONGEST - len(suffix)) // width) + suffix
    check_writable(tmp_path / name, format)
    with VideoWriter(tmp_path / name, 30, (64, 48), format) as writer:
        writer.write(FRAME)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    for path in (tmp_path / f"aaa{name}", tmp_path / ("b" * 300) / "clip", tmp_path / "c" / f"aaa{name}"):
        with pytest.raises(MochiError, match=rf"name .* bytes long, and {LONGEST} are the most here"):
            check_writable(path, format)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("format", ["mp4", "png"])
def test_paths_as_long_as_the_system_takes(format: str, tmp_path: Path) -> None:
    folder = tmp_path
    while len(str(folder)) < 4095 - 240:
        folder /= "f" * 200
    inside = len("/frame_00001.png") if format == "png" else 0
    name = "n" * (4095 - inside - len(str(folder)) - 1)
    with VideoWriter(folder / name, 30, (64, 48), format) as writer:
        writer.write(FRAME)
    assert writer.path.exists() and len(list(folder.iterdir())) == 1
    with pytest.raises(MochiError, match=r"path is 4096 bytes long, and 4095 are the most"):
        check_writable(folder / f"{name}n", format)


@pytest.mark.parametrize("name", ["a\0b", "a\ud83db", "\udfff\ud83d", "new/a\0/clip", "a\ud83d/clip"])
def test_characters_that_cannot_be_stored(name: str, tmp_path: Path) -> None:
    for path in (tmp_path / f"{name}.mp4", tmp_path / f"{name}.png"):
        with pytest.raises(MochiError, match="no file name can hold"):
            check_writable(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are bytes on Linux")
@pytest.mark.parametrize("format", FORMATS)
def test_names_that_are_no_text(format: str, tmp_path: Path) -> None:
    """Bytes of another encoding, as the shell passes them on."""
    path = tmp_path / os.fsdecode(b"caf\xe9")
    with VideoWriter(path, 30, (64, 48), format) as writer:
        writer.write(FRAME)
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"]


@pytest.mark.parametrize(
    "name", ["a:b", "what?", 'say "x"', "a*", "<a>", "a|b", "tab\t", "dot.", "blank ", "CON", "nul.mp4", "com1.x.mp4"]
)
def test_names_on_windows(name: str) -> None:
    assert flaw_of(name, windows=True) is not None
    assert flaw_of(made_storable(name, 255, windows=True), windows=True) is None
    if sys.platform != "win32":
        assert flaw_of(name) is None


@given(name=st.text(max_size=300), windows=st.booleans(), most=st.integers(20, 255))
def test_any_name_can_be_made_storable(name: str, windows: bool, most: int) -> None:
    name = name.replace("/", "_").replace("\\", "_")
    storable = made_storable(name, most, windows)
    assert storable and flaw_of(storable, most, windows) is None
    if name and flaw_of(name, most, windows) is None:
        assert storable == name


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file/clip.mp4", "file/new/clip.png", "dangling/clip.gif", "loop/clip.webm"):
        with pytest.raises(MochiError, match=r"cannot be written, because .* is no folder"):
            check_writable(tmp_path / name)


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "mine.png").write_text("")
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(MochiError, match="cannot be written"):
        check_writable(tmp_path / "file" / "clip.mp4")
    with pytest.raises(MochiError, match="already a folder"):
        check_writable(tmp_path / "frames.png")
    with pytest.raises(MochiError, match="already a folder"):
        check_writable(tmp_path / "clip.mp4")
    with pytest.raises(MochiError, match="already a file"):
        check_writable(tmp_path / "file", "png")
    with pytest.raises(MochiError, match="cannot be written"):
        VideoWriter(tmp_path / "file" / "clip.mp4", 30, (64, 48))
    check_writable(tmp_path / "new" / "folder" / "clip.mp4")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(MochiError, match="cannot be written"):
        check_writable(tmp_path / "clip.mp4")
