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
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mochi.errors import Cancelled, MochiError
from mochi.video import FORMATS, VideoWriter, check_writable, encoders, format_of

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
def test_any_size_and_rate(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, count: int, fps: float, format: str
) -> None:
    """Odd sizes gain a row or column in mp4 and webm, which store colour for 2x2 pixels."""
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


def test_new_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()  # empty, so it may become the folder of frames
    for name in ("new/folder/clip.mp4", "clip.png"):
        with VideoWriter(tmp_path / name, 30, (64, 48)) as writer:
            writer.write(bars(1))
        assert writer.path.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(MochiError, match="cannot be written"):
        check_writable(tmp_path / "clip.mp4")
