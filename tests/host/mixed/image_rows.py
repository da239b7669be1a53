"""IMAGE and VIDEO between our nodes and built-in ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageSequence

from tests.host.mixed.checks import equal, holds, same_frames
from tests.host.mixed.graph import FRAMES, HEIGHT, WIDTH, Graph, Link, Output
from tests.host.mixed.rows import Section

IMAGE = Section("IMAGE and VIDEO")
FPS = 12.0


def ours(images: Link, format: str = "mp4") -> Output:
    """Mochi Save Video."""
    widgets = {"fps": FPS, "format": format, "quality": 90, "filename_prefix": f"mixed/ours_{format}"}
    return Output("MochiSaveVideo", {"images": images, **widgets})


def pictures(images: Link) -> Output:
    return Output("SaveImage", {"images": images, "filename_prefix": "mixed/picture"})


def video_of(g: Graph) -> Link:
    """The frames of our video, decoded on the ranks."""
    return g("MochiVAEDecode", vae=g.vae, samples=g.ours())


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


def within_a_level(a: list[Path], b: list[Path]) -> None:
    assert np.abs(pixels(a) - pixels(b)).max() <= 1


def alike(a: list[Path], b: list[Path]) -> None:
    assert noise_ratio(a, b) > 25


def rate(path: Path) -> float:
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate)


@IMAGE.row("Mochi VAE Decode, Mochi Save Video", "Save Image", "Mochi Save Video as PNG")
def save_image(g: Graph):
    def test(theirs: list[Path], mine: list[Path]) -> None:
        assert len(theirs) == FRAMES
        within_a_level(theirs, mine)

    yield holds(test, pictures(video_of(g)), ours(g.decoded(g.ours()), "png"), words="equal to a level of 255")


@IMAGE.row("Mochi VAE Decode, Mochi Save Video", "Create Video, Save Video", "Mochi Save Video: frames, size and fps")
def save_video(g: Graph):
    def test(theirs: list[Path], mine: list[Path]) -> None:
        alike(theirs, mine)
        assert rate(theirs[0]) == rate(mine[0]) == FPS

    video = g("CreateVideo", images=video_of(g), fps=FPS)
    saved = Output("SaveVideo", {"video": video, "filename_prefix": "mixed/theirs", "format": "mp4", "codec": "h264"})
    yield holds(test, saved, ours(g.decoded(g.ours())), words="alike to 25 dB")


@IMAGE.row("Mochi VAE Decode, Mochi Save Video", "Create Video", "Mochi Save Video of the frames")
def create_video(g: Graph):
    def test(theirs: list[Path], mine: list[Path]) -> None:
        alike(theirs, mine)
        assert rate(theirs[0]) == 24 and rate(mine[0]) == FPS

    video = g("CreateVideo", images=video_of(g), fps=24.0)
    yield holds(test, ours(video), ours(g.decoded(g.ours())), words="alike to 25 dB, with the video's own fps")


@IMAGE.row("Mochi VAE Decode", "SaveWEBM", "Mochi Save Video as webm")
def save_webm(g: Graph):
    saver = Output(
        "SaveWEBM", {"images": video_of(g), "filename_prefix": "mixed/webm", "codec": "vp9", "fps": FPS, "crf": 12.0}
    )
    yield holds(alike, saver, ours(g.decoded(g.ours()), "webm"), words="alike to 25 dB")


@IMAGE.row("Mochi VAE Decode", "SaveAnimatedWEBP, lossless", "Save Image")
def save_webp(g: Graph):
    options = {"fps": FPS, "lossless": True, "quality": 100, "method": "fastest"}
    saver = Output("SaveAnimatedWEBP", {"images": video_of(g), "filename_prefix": "mixed/webp", **options})
    yield holds(within_a_level, saver, pictures(g.decoded(g.ours())), words="equal to a level of 255")


@IMAGE.row("Mochi VAE Decode, Mochi VAE Encode", "ImageFromBatch, ImageBatch", "the frames as they were")
def image_from_batch(g: Graph):
    frames = video_of(g)
    parts = [g("ImageFromBatch", image=frames, batch_index=i, length=n) for i, n in ((0, 5), (5, FRAMES - 5))]
    yield same_frames(g, g("ImageBatch", image1=parts[0], image2=parts[1]), g.decoded(g.ours()))


@IMAGE.row("Mochi VAE Decode, Mochi VAE Encode", "ImageScale, larger and back", "the frames as they were")
def image_scale(g: Graph):
    def scaled(image: Link, times: int) -> Link:
        size = {"width": WIDTH * times, "height": HEIGHT * times}
        return g("ImageScale", image=image, upscale_method="nearest-exact", crop="disabled", **size)

    yield same_frames(g, scaled(scaled(video_of(g), 2), 1), g.decoded(g.ours()))


@IMAGE.row(
    "Mochi Save Video, Mochi VAE Encode",
    "Load Video, Get Video Components",
    "VAE Encode of them, and the frames that were saved",
)
def load_video(g: Graph):
    name = f"mixed{g.ranks}.mp4"
    ((saved,),) = g.run(ours(video_of(g)))
    shutil.copy(saved, g.comfy.base / "input" / name)
    frames = g("GetVideoComponents", video=g("LoadVideo", file=name))
    yield equal(g("MochiVAEEncode", vae=g.vae, pixels=frames), g("VAEEncode", vae=g.single_vae, pixels=frames))
    yield holds(alike, pictures(frames), pictures(g.decoded(g.ours())), words="alike to 25 dB")


@IMAGE.row("Mochi Save Video", "Load Video", "the frames that were saved in it")
def resave_video(g: Graph):
    name = f"again{g.ranks}.mp4"
    ((saved,),) = g.run(ours(video_of(g)))
    shutil.copy(saved, g.comfy.base / "input" / name)
    yield holds(alike, ours(g("LoadVideo", file=name), "png"), pictures(g.decoded(g.ours())), words="alike to 25 dB")
