"""IMAGE and VIDEO between our nodes and built-in ones."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.host.mixed.checks import CheckedGraph
from tests.host.mixed.graph import FRAMES, HEIGHT, WIDTH, Link, Output

SECTION = "IMAGE and VIDEO"
FPS = 12.0


def ours(images: Link, format: str = "mp4") -> Output:
    """Mochi Save Video."""
    widgets = {"fps": FPS, "format": format, "quality": 90, "filename_prefix": f"mixed/ours_{format}"}
    return Output("MochiParallelSaveVideo", {"images": images, **widgets})


def pictures(images: Link) -> Output:
    return Output("SaveImage", {"images": images, "filename_prefix": "mixed/picture"})


def video_of(g: CheckedGraph) -> Link:
    """The frames of our video, decoded on the ranks."""
    return g("MochiParallelVAEDecode", vae=g.vae, samples=g.ours())


def pixels(paths: list[Path]) -> np.ndarray:
    """(F, H, W, 3), 0 to 255, of a video file, an animated picture, or several pictures."""
    if paths[0].suffix in (".mp4", ".webm"):
        with av.open(str(paths[0])) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)
    images = [frame.convert("RGB") for path in paths for frame in ImageSequence.Iterator(Image.open(path))]
    return np.stack([np.asarray(image) for image in images]).astype(float)


def noise_ratio(a: list[Path], b: list[Path]) -> float:
    """Peak signal-to-noise ratio in dB of frames that are as many and as large."""
    first, second = pixels(a), pixels(b)
    assert first.shape == second.shape
    return 10 * np.log10(255**2 / max(((first - second) ** 2).mean(), 1e-9))


def assert_within_a_level(a: list[Path], b: list[Path]) -> None:
    assert np.abs(pixels(a) - pixels(b)).max() <= 1


def assert_alike(a: list[Path], b: list[Path]) -> None:
    assert noise_ratio(a, b) > 25


def rate(path: Path) -> float:
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate)


@pytest.mark.mixed("Mochi VAE Decode, Mochi Save Video", "Save Image", "Mochi Save Video as PNG")
def test_save_image(g: CheckedGraph) -> None:
    theirs, mine = g.run(pictures(video_of(g)), ours(g.decoded(g.ours()), "png"))
    assert len(theirs) == FRAMES
    assert_within_a_level(theirs, mine)
    g.note("equal to a level of 255")


@pytest.mark.mixed(
    "Mochi VAE Decode, Mochi Save Video", "Create Video, Save Video", "Mochi Save Video: frames, size and fps"
)
def test_save_video(g: CheckedGraph) -> None:
    video = g("CreateVideo", images=video_of(g), fps=FPS)
    saved = Output("SaveVideo", {"video": video, "filename_prefix": "mixed/theirs", "format": "mp4", "codec": "h264"})
    theirs, mine = g.run(saved, ours(g.decoded(g.ours())))
    assert_alike(theirs, mine)
    assert rate(theirs[0]) == rate(mine[0]) == FPS
    g.note("alike to 25 dB")


@pytest.mark.mixed("Mochi VAE Decode, Mochi Save Video", "Create Video", "Mochi Save Video of the frames")
def test_create_video(g: CheckedGraph) -> None:
    video = g("CreateVideo", images=video_of(g), fps=24.0)
    theirs, mine = g.run(ours(video), ours(g.decoded(g.ours())))
    assert_alike(theirs, mine)
    assert rate(theirs[0]) == 24 and rate(mine[0]) == FPS
    g.note("alike to 25 dB, with the video's own fps")


@pytest.mark.mixed("Mochi VAE Decode", "SaveWEBM", "Mochi Save Video as webm")
def test_save_webm(g: CheckedGraph) -> None:
    saver = Output(
        "SaveWEBM", {"images": video_of(g), "filename_prefix": "mixed/webm", "codec": "vp9", "fps": FPS, "crf": 12.0}
    )
    assert_alike(*g.run(saver, ours(g.decoded(g.ours()), "webm")))
    g.note("alike to 25 dB")


@pytest.mark.mixed("Mochi VAE Decode", "SaveAnimatedWEBP, lossless", "Save Image")
def test_save_webp(g: CheckedGraph) -> None:
    options = {"fps": FPS, "lossless": True, "quality": 100, "method": "fastest"}
    saver = Output("SaveAnimatedWEBP", {"images": video_of(g), "filename_prefix": "mixed/webp", **options})
    assert_within_a_level(*g.run(saver, pictures(g.decoded(g.ours()))))
    g.note("equal to a level of 255")


@pytest.mark.mixed("Mochi VAE Decode, Mochi VAE Encode", "ImageFromBatch, ImageBatch", "the frames as they were")
def test_image_from_batch(g: CheckedGraph) -> None:
    frames = video_of(g)
    parts = [g("ImageFromBatch", image=frames, batch_index=i, length=n) for i, n in ((0, 5), (5, FRAMES - 5))]
    g.assert_same_frames(g("ImageBatch", image1=parts[0], image2=parts[1]), g.decoded(g.ours()))


@pytest.mark.mixed("Mochi VAE Decode, Mochi VAE Encode", "ImageScale, larger and back", "the frames as they were")
def test_image_scale(g: CheckedGraph) -> None:
    def scaled(image: Link, times: int) -> Link:
        size = {"width": WIDTH * times, "height": HEIGHT * times}
        return g("ImageScale", image=image, upscale_method="nearest-exact", crop="disabled", **size)

    g.assert_same_frames(scaled(scaled(video_of(g), 2), 1), g.decoded(g.ours()))


@pytest.mark.mixed(
    "Mochi Save Video, Mochi VAE Encode",
    "Load Video, Get Video Components",
    "VAE Encode of them, and the frames that were saved",
)
def test_load_video(g: CheckedGraph) -> None:
    name = f"mixed{g.ranks}.mp4"
    ((saved,),) = g.run(ours(video_of(g)))
    shutil.copy(saved, g.comfy.base / "input" / name)
    frames = g("GetVideoComponents", video=g("LoadVideo", file=name))
    g.assert_equal(
        g("MochiParallelVAEEncode", vae=g.vae, pixels=frames), g("VAEEncode", vae=g.single_vae, pixels=frames)
    )
    assert_alike(*g.run(pictures(frames), pictures(g.decoded(g.ours()))))
    g.note("alike to 25 dB")


@pytest.mark.mixed("Mochi Save Video", "Load Video", "the frames that were saved in it")
def test_resave_video(g: CheckedGraph) -> None:
    name = f"again{g.ranks}.mp4"
    ((saved,),) = g.run(ours(video_of(g)))
    shutil.copy(saved, g.comfy.base / "input" / name)
    assert_alike(*g.run(ours(g("LoadVideo", file=name), "png"), pictures(g.decoded(g.ours()))))
    g.note("alike to 25 dB")
