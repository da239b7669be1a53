"""Frames as the trainer sees them: the right ones at the right times, cropped, scaled, upright, few at a time."""

import re
import sys
import weakref
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mochi.device_memory import memory_used
from mochi.train.data.items import Item, Unusable
from mochi.train.data.reading import Footage, look, nearest, read
from tests.train.clips import number_of, numbered, write_clip, write_gif, write_numbered

SIZE = (48, 32)
"""Of the numbered frames; nothing is cropped or scaled at it."""


def item(path: Path) -> Item:
    return Item(path.name, path, "a clip")


def numbers(path: Path, fps: float, frames: range | None = None) -> list[int]:
    """Which frames of a file are read at a frame rate."""
    rate, footage = Fraction(fps).limit_denominator(1001), look(item(path))
    wanted = range(footage.frames(rate)) if frames is None else frames
    return [number_of(frame.numpy()) for frame in read(item(path), footage, SIZE, wanted, rate)]


def expected(times: list[float], seconds: float, fps: float) -> list[int]:
    """By the distances of all frames to each time."""
    wanted = np.arange(round(seconds * fps)) / fps
    return np.abs(wanted[:, None] - np.asarray(times)[None]).argmin(1).tolist()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov"])
@pytest.mark.parametrize("fps", [24, 25, 29.97, 30, 60])
def test_which_frames(tmp_path: Path, suffix: str, fps: float) -> None:
    count = round(2 * fps)
    path = write_numbered(tmp_path / f"clip{suffix}", count, fps)
    seen = numbers(path, 30)
    if fps in (30, 29.97):
        assert seen == list(range(count))
    elif fps == 60:
        assert seen == list(range(0, count, 2))
    else:  # of two that are equally near, rounding of the file's times may choose either
        off = np.abs(np.asarray(seen) / fps - np.arange(len(seen)) / 30)
        assert len(seen) == 60 and seen[0] == 0 and off[:-1].max() <= 0.5 / fps + 0.002 and seen[-1] == count - 1


def test_a_variable_rate(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gaps = rng.integers(1, 40, 39) * 7  # milliseconds
    times = [Fraction(int(t), 1000) for t in np.cumsum([500, *gaps])]  # the first one is not shown at 0
    path = write_clip(tmp_path / "clip.mkv", map(numbered, range(40)), times)
    footage = look(item(path))
    assert (footage.pictures, footage.start, footage.last) == (40, times[0], times[-1])
    shown = [float(time - times[0]) for time in times]
    for fps in (30, 12, 7.5):
        seen = numbers(path, fps)
        known = len(seen) - 2  # how long the last frame stays, the file may not say
        assert seen[:known] == expected(shown, float(footage.seconds), fps)[:known]
        assert seen[-1] == 39


def test_gif(tmp_path: Path) -> None:
    """A slow one, with a pause; all of it is read, the last pause too."""
    pauses = [100, 100, 500, 100, 200]
    path = write_gif(tmp_path / "clip.gif", [numbered(number) for number in range(5)], pauses)
    seen = numbers(path, 10)
    assert seen == expected([0, 0.1, 0.2, 0.7, 0.8], 1.0, 10) and len(seen) == 10


@given(times=st.lists(st.integers(0, 400), min_size=1, unique=True), step=st.integers(1, 60), start=st.integers(0, 300))
def test_nearest_is_nearest(times: list[int], step: int, start: int) -> None:
    times = sorted(times)
    wanted = [Fraction(start + step * k) for k in range(20)]
    found = list(nearest(iter([(Fraction(t), t) for t in times]), wanted, Fraction(times[-1])))
    assert [abs(t - w) for t, w in zip(found, wanted, strict=True)] == [min(abs(t - w) for t in times) for w in wanted]


def test_few_frames_are_alive() -> None:
    class Frame:
        pass

    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0

    def frames():
        nonlocal most
        for number in range(2000):
            frame = Frame()
            alive.add(frame)
            most = max(most, len(alive))
            yield Fraction(number, 60), frame
            del frame

    for _ in nearest(frames(), (Fraction(number, 30) for number in range(1000)), Fraction(1999, 60)):
        pass
    assert most <= 4  # the one that is shown, the next two, and the one that this test holds


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the process's memory")
def test_memory_is_constant(tmp_path: Path) -> None:
    """400 frames of 0.23 MB each are decoded for 25 at their end."""
    frames = (numbered(number, 480, 320) for number in range(400))
    one_group = {"g": "100000", "sc_threshold": "0"}
    path = write_clip(tmp_path / "long.mp4", frames, (Fraction(k, 30) for k in range(400)), options=one_group)
    footage, cpu = look(item(path)), torch.device("cpu")
    assert footage.frames(Fraction(30)) == 400
    before = most = memory_used(cpu)
    count = 0
    for _ in read(item(path), footage, (64, 48), range(375, 400), Fraction(30)):
        count, most = count + 1, max(most, memory_used(cpu))
    assert count == 25 and most - before < 30e6


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov"])
def test_a_window_is_found_in_the_middle(tmp_path: Path, suffix: str) -> None:
    """It is searched for from the key frame before it; that is the same as counting from the beginning."""
    path = write_numbered(tmp_path / f"clip{suffix}", 150, 30, g="20")
    for first in (1, 19, 20, 21, 39, 77, 120):
        assert numbers(path, 30, range(first, first + 13)) == list(range(first, first + 13))
    assert numbers(path, 15, range(50, 57)) == list(range(100, 114, 2))


def test_values_are_the_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 32, 48, 3), np.uint8)
    clip = item(write_clip(tmp_path / "clip.mkv", frames, (Fraction(k, 30) for k in range(4))))
    Image.fromarray(frames[0]).save(tmp_path / "image.png")
    image = item(tmp_path / "image.png")
    for given_item, wanted in ((clip, frames), (image, frames[:1])):
        seen = torch.stack(list(read(given_item, look(given_item), SIZE, range(len(wanted)), Fraction(30))))
        assert torch.equal(seen, torch.from_numpy(wanted))


@pytest.mark.parametrize("bt709", [False, True])
def test_colours_are_those_of_the_matrix_that_a_file_names(tmp_path: Path, bt709: bool) -> None:
    colour = np.array([200, 100, 50])
    kr, kb = (0.2126, 0.0722) if bt709 else (0.299, 0.114)
    r, g, b = colour / 255
    y = kr * r + (1 - kr - kb) * g + kb * b
    planes = [16 + 219 * y, 128 + 224 * (b - y) / (2 * (1 - kb)), 128 + 224 * (r - y) / (2 * (1 - kr))]
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = (1 if bt709 else 6), 1
        for _ in range(3):
            picture = np.stack([np.full((64, 64), round(plane), np.uint8) for plane in planes])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv444p")))
        container.mux(stream.encode(None))
    frame = next(read(item(path), look(item(path)), (64, 64), range(1), Fraction(30)))
    assert np.abs(frame[32, 32].numpy() - colour).max() <= 3


@pytest.mark.parametrize(("width", "height"), [(100, 60), (61, 131), (48, 32), (200, 20)])
def test_cropped_and_scaled_as_pillow_does(tmp_path: Path, width: int, height: int) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (9, 9, 3), np.uint8).repeat(height // 9 + 1, 0).repeat(width // 9 + 1, 1)
    picture = np.ascontiguousarray(blocks[:height, :width])
    Image.fromarray(picture).save(tmp_path / "image.png")
    image = item(tmp_path / "image.png")
    ratio = 48 / 32
    kept_width, kept_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    box = (left, top, left + kept_width, top + kept_height)
    channels = [Image.fromarray(picture[..., channel].astype(np.float32)).crop(box) for channel in range(3)]
    wanted = np.stack([np.asarray(channel.resize(SIZE, Image.Resampling.BICUBIC)) for channel in channels], -1)
    seen = next(read(image, look(image), SIZE, range(1), Fraction(30))).numpy()
    assert np.abs(seen - wanted.clip(0, 255)).max() <= 0.51


def test_upright(tmp_path: Path) -> None:
    """A phone's clip: the matrix in its header says that it is turned clockwise when it is shown."""
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:16, :32] = 255  # the corner on the top left, which turns to the top right
    path = write_clip(tmp_path / "clip.mp4", [frame] * 3, (Fraction(k, 30) for k in range(3)))
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version and flags, times, track, duration, reserved, layer, volume
    one = 1 << 16
    matrix = [0, one, 0, -one & 0xFFFFFFFF, 0, 0, 32 * one, 0, 1 << 30]
    assert data[start : start + 4] == one.to_bytes(4, "big")
    data[start : start + 36] = b"".join(value.to_bytes(4, "big") for value in matrix)
    path.write_bytes(data)
    footage = look(item(path))
    assert (footage.width, footage.height) == (32, 64)
    seen = next(read(item(path), footage, (32, 64), range(1), Fraction(30))).float()
    assert seen[4:28, 20:].mean() > 240 and seen[4:28, :12].mean() < 15 and seen[40:].mean() < 15


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    frames = [numbered(number) for number in range(3)]
    times = (Fraction(k, 30) for k in range(3))
    path = write_clip(tmp_path / "clip.mp4", frames, times, pixel=Fraction(2))
    footage = look(item(path))
    assert (footage.width, footage.height) == (96, 32)
    seen = [number_of(frame.numpy()) for frame in read(item(path), footage, (96, 32), range(3), Fraction(30))]
    assert seen == [0, 1, 2]


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be trained on, and a part of the reason."""
    whole = write_numbered(folder / "whole.mp4", 40, 30).read_bytes()
    noise = write_clip(
        folder / "noise.mp4",
        np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), np.uint8),
        (Fraction(k, 30) for k in range(20)),
    ).read_bytes()
    garbled = bytearray(noise)
    start = noise.index(b"mdat")
    for place in np.random.default_rng(1).integers(start + 5000, noise.index(b"moov") - 100, 100):
        garbled[place] ^= 0xFF
    (folder / "garbled.mp4").write_bytes(garbled)
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("not a video")
    (folder / "empty.webm").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    write_sound(folder / "sound.mkv")
    Image.new("RGB", (8, 8)).save(folder / "small.png")
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    clear.putpixel((3, 3), (0, 0, 0, 0))
    clear.save(folder / "clear.png")
    write_clip(folder / "small.mkv", [np.zeros((8, 8, 3), np.uint8)] * 9, (Fraction(k, 30) for k in range(9)))
    halves = [Image.new("RGBA", (32, 32), (255, 0, 0, 255)) for _ in range(3)]
    for place, half in enumerate(halves):
        half.paste((0, 0, 0, 0), (0, place, 32, 16))
    halves[0].save(folder / "clear.gif", save_all=True, append_images=halves[1:], disposal=2)
    return {
        "garbled.mp4": "damaged",
        "cut.mp4": "damaged|cannot be read as a video",
        "text.mp4": "cannot be read as a video",
        "empty.webm": "cannot be read as a video",
        "text.png": "not a picture that can be read; save it as PNG or JPEG",
        "sound.mkv": "no picture in it, only sound",
        "small.png": "8 x 8 pixels, but must have 16 x 16 at least",
        "small.mkv": "8 x 8 pixels",
        "clear.png": "it is transparent in places, which a video cannot be",
        "clear.gif": "transparent in places",
    }


def test_bad_files(tmp_path: Path) -> None:
    for name, reason in bad_files(tmp_path).items():
        bad, message = item(tmp_path / name), "nothing"
        try:
            footage = look(bad)
            for _ in read(bad, footage, (32, 32), range(footage.frames(Fraction(30))), Fraction(30)):
                pass
        except Unusable as error:
            message = str(error)
        assert re.search(reason, message), f"{name}: {message}"
        assert name not in message  # who reports it names it


def test_frames_that_are_missing_at_the_end(tmp_path: Path) -> None:
    clip = item(write_numbered(tmp_path / "clip.mp4", 20, 30))
    footage = look(clip)
    promised = Footage(**{**vars(footage), "last": Fraction(2), "seconds": Fraction(61, 30)})
    with pytest.raises(Unusable, match=r"no frames can be decoded after 0\.6 s"):
        list(read(clip, promised, SIZE, range(61), Fraction(30)))
