"""The video writer: what is written plays back, carries its metadata, and never stays behind half done."""

import errno
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mochi.errors import Cancelled, MochiError
from mochi.video import FORMATS, VideoWriter, check_video, encoders, format_of
from mochi.video.limits import LIMITS

TEXT = 'é } "{" \\ }}'
METADATA = {"prompt": json.dumps({"1": {"class_type": "A", "text": TEXT}}), "workflow": json.dumps({"nodes": [1]})}


def bars(frames: int = 7, width: int = 64, height: int = 48) -> torch.Tensor:
    """Coloured bars that move: (F, H, W, 3) in [0, 1]."""
    colours = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0.5, 0.5, 0.5], [1, 1, 1], [0, 0, 0], [0.1, 0.8, 0.6]]
    columns = torch.tensor(colours).repeat_interleave(width // 8 + 1, 0)[:width]
    return torch.stack([columns.roll(8 * i, 0).expand(height, -1, -1) for i in range(frames)])


def read_back(path: Path) -> tuple[np.ndarray, Fraction | None]:
    """Frames (F, H, W, 3) uint8 and frames a second."""
    if path.is_dir():
        return np.stack([np.asarray(Image.open(p)) for p in sorted(path.iterdir())]), None
    with av.open(str(path)) as video:
        rate = video.streams.video[0].average_rate
        return np.stack([f.to_ndarray(format="rgb24") for f in video.decode(video=0)]), rate


@pytest.mark.parametrize("format", FORMATS)
def test_plays_back(format: str, tmp_path: Path) -> None:
    frames = bars()
    with VideoWriter(tmp_path / f"clip.{format}", 30, (64, 48), quality=95) as writer:
        writer.write(frames[:1])
        writer.write((frames[1:4] * 255).round().to(torch.uint8).numpy())
        writer.write(frames[4:].to(torch.bfloat16))
        assert not writer.path.exists()
    assert list(tmp_path.iterdir()) == [writer.path]
    seen, rate = read_back(writer.path)
    assert seen.shape == (7, 48, 64, 3)
    assert rate in (None, 30) or format == "gif"  # which stores hundredths of a second, 3 and 4 in turn
    middle = slice(4, None, 8)  # of each bar, away from the edges that 4:2:0 blurs
    error = np.abs(seen[:, :, middle] - frames.numpy()[:, :, middle] * 255.0).max()
    assert error < (3 if format in ("gif", "png") else 12)


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_colours_are_tagged(format: str, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / f"clip.{format}", 30, (64, 48)) as writer:
        writer.write(bars(2))
    with av.open(str(writer.path)) as video:
        frame = next(video.decode(video=0))
        assert (frame.colorspace, frame.color_range, frame.format.name) == (6, 1, "yuv420p")
        context = video.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc) == (1, 1)


@given(
    width=st.integers(16, 70),
    height=st.integers(16, 70),
    count=st.integers(1, 4),
    fps=st.floats(1, 120),
    format=st.sampled_from(FORMATS),
)
@example(width=64, height=48, count=2, fps=0.01, format="webm")
@example(width=64, height=48, count=3, fps=1000, format="mp4")
def test_any_size_and_rate(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, count: int, fps: float, format: str
) -> None:
    """Odd sizes gain a row or column in mp4 and webm, which store colour for 2x2 pixels."""
    fps = min(fps, LIMITS[format].fps)
    path = tmp_path_factory.mktemp("video") / f"clip.{format}"
    with VideoWriter(path, fps, (width, height)) as writer:
        writer.write(bars(count, width, height))
    seen, rate = read_back(writer.path)
    even = 2 if format in ("mp4", "webm") else 1
    assert seen.shape[:3] == (count, -(-height // even) * even, -(-width // even) * even)
    if format == "mp4" and count > 1:
        assert rate == pytest.approx(fps, rel=0.02)


def test_quality(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), np.uint8)
    for format in ("mp4", "webm"):
        sizes = []
        for quality in (0, 50, 100):
            with VideoWriter(tmp_path / f"{quality}.{format}", 30, (64, 64), quality=quality) as writer:
                writer.write(noise)
            sizes.append(writer.path.stat().st_size)
        assert sizes[0] * 2 < sizes[1] and sizes[1] * 2 < sizes[2]


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_metadata_of_videos(format: str, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / f"clip.{format}", 30, (64, 48), metadata=METADATA) as writer:
        writer.write(bars())
    with av.open(str(writer.path)) as video:
        found = {key.lower(): value for key, value in video.metadata.items()}
    assert {key: json.loads(found[key]) for key in METADATA} == {key: json.loads(METADATA[key]) for key in METADATA}
    if format == "webm":  # whose end the editor finds by counting braces
        assert all(text.count("{") == text.count("}") for text in found.values())
    else:
        assert METADATA.items() <= found.items()
    # The editor reads the start of a file only (2 MB of webm, 64 MB of mp4).
    data = writer.path.read_bytes()
    assert data.index(b'"class_type"') < len(data) // 2


def test_metadata_of_images(tmp_path: Path) -> None:
    for format in ("png", "gif"):
        with VideoWriter(tmp_path / f"clip.{format}", 30, (64, 48), metadata=METADATA) as writer:
            writer.write(bars(3))
    for image in (tmp_path / "clip").iterdir():
        assert Image.open(image).text == METADATA
    gif = Image.open(tmp_path / "clip.gif")
    assert json.loads(gif.info["comment"]) == METADATA
    assert gif.n_frames == 3 and gif.info["loop"] == 0


def test_long_gif_comment(tmp_path: Path) -> None:
    metadata = {"workflow": json.dumps(["x" * 100_000])}
    with VideoWriter(tmp_path / "clip.gif", 30, (64, 48), metadata=metadata) as writer:
        writer.write(bars(2))
    assert json.loads(Image.open(writer.path).info["comment"]) == metadata


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt, SystemExit, RuntimeError])
def test_nothing_stays_after_an_error(format: str, error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), VideoWriter(tmp_path / f"clip.{format}", 30, (64, 48)) as writer:
        writer.write(bars())
        raise error
    assert not list(tmp_path.iterdir())


def test_an_older_file_survives_a_failed_run(tmp_path: Path) -> None:
    old = tmp_path / "clip.mp4"
    old.write_bytes(b"old")
    with pytest.raises(Cancelled), VideoWriter(old, 30, (64, 48)) as writer:
        writer.write(bars())
        raise Cancelled
    assert old.read_bytes() == b"old"
    with VideoWriter(old, 30, (64, 48)) as writer:
        writer.write(bars())
    assert len(read_back(old)[0]) == 7


@pytest.mark.parametrize("format", FORMATS)
def test_disk_full(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(encoders.ENCODERS[format], "add", full)
    with pytest.raises(MochiError, match="disk is full"), VideoWriter(tmp_path / f"c.{format}", 30, (64, 48)) as writer:
        writer.write(bars())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_write_that_really_fails(tmp_path: Path) -> None:
    """The system refuses to let the file grow, as it does when the disk is full."""
    program = """
import resource, signal, sys, numpy as np
from mochi.errors import MochiError
from mochi.video import FORMATS, VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
for format in FORMATS:
    try:
        with VideoWriter(f"{sys.argv[1]}/clip.{format}", 30, (64, 64), quality=95) as writer:
            writer.write(noise)
    except MochiError as error:
        assert "could not be written" in str(error), error
    else:
        raise SystemExit(f"no error: {format}")
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
    assert not list(tmp_path.iterdir())


def test_bad_settings(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    for bad in ({"fps": 0}, {"fps": float("nan")}, {"quality": 101}, {"format": "avi"}):
        with pytest.raises(MochiError, match=next(iter(bad))):
            VideoWriter(clip, **({"fps": 30, "size": (64, 48)} | bad))
    with pytest.raises(MochiError, match=r"must end in \.mp4"):
        format_of("clip.avi")
    with pytest.raises(MochiError, match="at least one frame"), VideoWriter(clip, 30, (64, 48)):
        pass
    for frames in (bars(width=32), bars()[0], bars()[..., :1], bars().long()):
        with pytest.raises(MochiError, match="frames"), VideoWriter(clip, 30, (64, 48)) as writer:
            writer.write(frames)
    assert not list(tmp_path.iterdir())


def test_new_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()  # empty, so it may become the folder of frames
    for name in ("new/folder/clip.mp4", "clip.png"):
        with VideoWriter(tmp_path / name, 30, (64, 48)) as writer:
            writer.write(bars(1))
        assert writer.path.exists()


def test_what_a_format_cannot_hold() -> None:
    for format, fps in (("gif", 50.01), ("gif", 60), ("gif", Fraction(60000, 1001)), ("mp4", float("nan")), ("png", 0)):
        with pytest.raises(MochiError, match="fps is"):
            check_video(format, fps)
    for fps in (float("inf"), -1, 10**400, 1000.5):
        with pytest.raises(MochiError, match="must be between"):
            check_video("webm", fps)
    for format, size in (("mp4", (16386, 16)), ("webm", (16, 70000)), ("gif", (65536, 2)), ("png", (0, 16))):
        with pytest.raises(MochiError, match="a side of a"):
            check_video(format, 30, size)
    with pytest.raises(MochiError, match="16384 x 16384 pixels are too many for mp4"):
        check_video("mp4", 30, (16384, 16384))
    for format in FORMATS:
        check_video(format, 50, (1, 1))
    assert LIMITS.keys() == encoders.ENCODERS.keys() == set(FORMATS)


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_the_longest_side_is_encoded(format: str, tmp_path: Path) -> None:
    size = (LIMITS[format].side, 16)
    with VideoWriter(tmp_path / f"clip.{format}", 30, size, quality=0) as writer:
        writer.write(np.zeros((1, 16, size[0], 3), np.uint8))
    assert read_back(writer.path)[0].shape[2] == size[0]


def test_a_failed_clean_up_does_not_hide_the_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for name in ("clip.mp4", "clip.gif", "clip.png"):
        with monkeypatch.context() as patch, pytest.raises(Cancelled), VideoWriter(tmp_path / name, 30, (64, 48)) as w:
            w.write(bars(1))
            patch.setattr(os, "unlink", fails)
            patch.setattr(Path, "unlink", fails)
            raise Cancelled


@pytest.mark.parametrize("format", FORMATS)
def test_metadata_that_is_no_text(format: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Halves of characters, NUL, and names that a format cannot hold."""
    odd = {"prompt": '["a \ud83d", "\udce9", "b\0"]', "a\ud83d": "1", "": "2", "x=y": "3", "n" * 80: "4", "é": "5"}
    with VideoWriter(tmp_path / f"clip.{format}", 30, (64, 48), metadata=odd) as writer:
        writer.write(bars(1))
    if format in ("mp4", "webm"):
        with av.open(str(writer.path)) as video:
            found = {key.lower(): value for key, value in video.metadata.items()}
    elif format == "gif":
        found = json.loads(Image.open(writer.path).info["comment"])
    else:
        found = Image.open(writer.path / "frame_00001.png").text
    assert json.loads(found["prompt"]) == ["a \ud83d", "\udce9", "b\0"]
    assert not {"x", "x=y", "é"} & set(found) and "left out" in caplog.text


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_the_same_frames_make_the_same_file(tmp_path, format):
    """So that a video can be told from another one by its hash, whichever machine made it."""
    noise = torch.rand(25, 8, 12, 3, generator=torch.Generator().manual_seed(0))
    frames, files, kept = noise.repeat_interleave(8, 1).repeat_interleave(8, 2), set(), []
    for number in range(6):
        path = tmp_path / f"{number}.{format}"
        kept.append(np.random.default_rng(0).random(1000 * (number + 1)))  # other addresses in memory each time
        with VideoWriter(path, 24, (96, 64)) as video:
            video.write(frames)
        files.add(path.read_bytes())
    assert len(files) == 1
