"""Pictures in files: how they are named on a command line, and what is read of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mochi.errors import MochiError
from mochi.images import GivenImage, by_latent, noise_multipliers, read_picture
from mochi.variant import FRAMES, PREVIEW

GREY = np.add.outer(8 * np.arange(16), np.arange(24)).astype(np.uint8)
COLOURS = np.stack([GREY, GREY // 2, 255 - GREY], axis=-1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "file", "frame", "strength"),
    [
        ("a.png", "a.png", 0, 1),
        ("a.png@3", "a.png", 3, 1),
        ("a.png@-1=0.25", "a.png", -1, 0.25),
        ("a.png@0=1e-1", "a.png", 0, 0.1),
        ("me@home/b=1@2x.png", "me@home/b=1@2x.png", 0, 1),
        ("me@home/b=1@2x.png@-1=0.5", "me@home/b=1@2x.png", -1, 0.5),
        ("photo@2", "photo@2", 0, 1),  # there is a file of the whole name
        ("photo@2@0", "photo@2", 0, 1),
        ("photo@1", "photo", 1, 1),
        ("a=b", "a=b", 0, 1),
        ("absent.png@5", "absent.png", 5, 1),
    ],
)
def test_names(here: Path, text: str, file: str, frame: int, strength: float) -> None:
    (here / "me@home").mkdir()
    for name in ("a.png", "me@home/b=1@2x.png", "photo", "photo@2", "a=b"):
        (here / name).write_bytes(b"")
    assert GivenImage.of(text) == GivenImage(file, frame, strength)


@given(st.text("ab@=.-1", min_size=1), st.integers(-200, 200), st.floats(0, 1))
def test_a_name_with_everything_behind_it_is_that_file(name: str, frame: int, strength: float) -> None:
    assert GivenImage.of(f"{name}@{frame}={strength!r}") == GivenImage(name, frame, strength)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a.png@first", "'first' is no whole number of a frame"),
        ("a.png@1.5", "'1.5' is no whole number"),
        ("a.png@", "'' is no whole number"),
        ("a.png@0=much", "'much' is no strength"),
        ("a.png@0=nan", "'nan' is no strength"),
        ("a.png@0=2", "strength is 2, but must be between 0 and 1: the nearest is 1"),
        ("a.png@0=-0.5", "nearest is 0"),
        ("", "must have the name of one"),
        ({"file": "a.png", "frames": 3}, "must have FILE.* or objects with file, frame, strength"),
        ({"frame": 3}, "objects with file"),
        ({"file": 3}, "has 3 as a file"),
        ({"file": None}, "objects with file"),
        ({"file": "a.png", "strength": 10**400}, "image a.png: strength is 10+, but must be a number"),
        ({"file": "a.png", "frame": 1.5}, "image a.png: frame is 1.5"),
        ({"file": "a.png", "strength": True}, "image a.png: strength is True"),
        (["a.png"], "objects with file"),
    ],
)
def test_what_no_image_is(here: Path, value: object, message: str) -> None:
    (here / "a.png").write_bytes(b"")
    with pytest.raises(MochiError, match=message):
        GivenImage.of(value)


def test_no_two_for_one_latent() -> None:
    first, second, last = GivenImage("a.png", 1), GivenImage("b.png", 6), GivenImage("c.png", -1)
    assert by_latent([first, last], 13) == {1: first, 2: last}
    with pytest.raises(MochiError, match=r"b.png: frame is 6, but image a.png is given to frame 1 .* free is 7$"):
        by_latent([first, second], 13)
    with pytest.raises(MochiError, match="no other is free"):
        by_latent([last, GivenImage("b.png")], 1)
    with pytest.raises(MochiError, match=r"b.png: frame is 6, but the video has 1 frames.* nearest is 0"):
        by_latent([second], 1)


def test_noise() -> None:
    images = [GivenImage("a.png", 0, 0.75), GivenImage("b.png", -1)]
    assert noise_multipliers(images, 13, FRAMES) == (0.25, 1, 0)
    assert noise_multipliers(images, 13, PREVIEW) == (0, 1, 0)
    assert noise_multipliers(images[:1], 1, FRAMES) == (0.25,)
    for frames, variant, advice in ((1, FRAMES, "or a strength below 1"), (7, PREVIEW, "Choose more frames$")):
        with pytest.raises(MochiError, match=f"nothing is left to make.*{advice}"):
            noise_multipliers(images[-1:] if frames == 1 else images, frames, variant)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_colours(here: Path, suffix: str) -> None:
    Image.fromarray(COLOURS).save(file := f"a.{suffix}", lossless=True)
    expected = torch.from_numpy(COLOURS)[None] / 255
    torch.testing.assert_close(read_picture(file), expected)


def test_kinds_of_pixels(here: Path) -> None:
    """Grey, with a palette, in 16 bits, CMYK, black and white."""
    grey = (torch.from_numpy(GREY)[None, :, :, None] / 255).expand(-1, -1, -1, 3)
    picture = Image.fromarray(GREY)
    picture.save("grey.png")
    picture.convert("P").save("palette.png")
    Image.fromarray(GREY.astype(np.uint16) * 257).save("deep.png")
    picture.convert("CMYK").save("cmyk.tiff")
    for file in ("grey.png", "palette.png", "deep.png", "cmyk.tiff"):
        torch.testing.assert_close(read_picture(file), grey, atol=1e-6, rtol=0, msg=file)
    Image.fromarray(GREY > 60).save("two.png")
    assert read_picture("two.png").unique().tolist() == [0, 1]


UPRIGHT = (
    lambda p: p,
    lambda p: p[:, ::-1],
    lambda p: p[::-1, ::-1],
    lambda p: p[::-1],
    lambda p: p.swapaxes(0, 1),
    lambda p: p[::-1].swapaxes(0, 1),
    lambda p: p[::-1, ::-1].swapaxes(0, 1),
    lambda p: p[:, ::-1].swapaxes(0, 1),
)
"""What a viewer makes of a picture, for the orientations 1 to 8 of EXIF."""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_upright(here: Path, mode: str, orientation: int) -> None:
    """As cameras say it in EXIF."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(COLOURS).convert(mode)
    picture.save("turned.png", exif=exif)
    expected = UPRIGHT[orientation - 1](np.asarray(picture.convert("RGB")))
    torch.testing.assert_close(read_picture("turned.png"), torch.from_numpy(expected.copy())[None] / 255)


def test_fits_the_video(here: Path) -> None:
    Image.fromarray(COLOURS).resize((100, 40)).save("wide.jpg")
    shown = GivenImage("wide.jpg").read(32, 48)
    assert shown.shape == (1, 48, 32, 3) and shown.min() >= 0 and shown.max() <= 1


def test_transparency(here: Path) -> None:
    """An alpha channel alone is none."""
    clear = Image.fromarray(COLOURS).convert("RGBA")
    clear.save("opaque.png")
    assert GivenImage("opaque.png").read(16, 16).shape == (1, 16, 16, 3)
    clear.putpixel((8, 8), (0, 0, 0, 200))
    clear.save("clear.png")
    Image.fromarray(GREY).convert("P").save("palette.png", transparency=3)
    for file in ("clear.png", "palette.png"):
        with pytest.raises(MochiError, match=f"image {file} is transparent in places"):
            GivenImage(file).read(16, 16)


def write_damaged(file: str, keep: float) -> None:
    whole = Path(f"whole.{file}")
    Image.effect_noise((64, 64), 50).save(whole)
    data = whole.read_bytes()
    Path(file).write_bytes(data[: int(len(data) * keep)])


def test_no_pictures(here: Path) -> None:
    Path("text.png").write_text("not a picture")
    Path("empty.png").write_bytes(b"")
    Path("folder.png").mkdir()
    Path("there.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save("pixel.png")
    Image.new("F", (32, 32)).save("float.tiff")
    Image.new("I", (32, 32)).save("whole.tiff")
    for file in ("cut.png", "cut.jpg", "cut.webp", "cut.gif"):
        write_damaged(file, 0.6)
    for file, message in {
        "absent.png": "there is no such file$",
        "there.png=0.5": r"no such file; a strength stands behind a frame: there.png@0=0.5$",
        "a\0b.png": "cannot be read",
        "text.png": "not a picture that can be read; save it as PNG or JPEG",
        "empty.png": "not a picture",
        "folder.png": "cannot be read, or is damaged",
        "pixel.png": "has 1 x 1 pixels, but must have 16 x 16 at least",
        "float.tiff": "numbers of 32 bits, of no known range; save it as PNG",
        "whole.tiff": "numbers of 32 bits",
        "cut.png": "damaged",
        "cut.jpg": "damaged",
        "cut.webp": "damaged|not a picture",
        "cut.gif": "damaged",
    }.items():
        with pytest.raises(MochiError, match=message) as caught:
            GivenImage(file).read(16, 16)
        assert f"image {file}" in str(caught.value)


def test_too_large(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOURS).save("large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(MochiError, match=r"large.png: cannot be read.*exceeds limit"):
        read_picture("large.png", "image large.png")
