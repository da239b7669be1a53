"""Frames to a video file."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial

from comfy_api.latest import Input, io
from torch import Tensor

from ..mochi.config import PREVIEW
from ..mochi.errors import MochiError
from ..mochi.geometry import SPACE
from ..mochi.safety import guarded, logged
from ..mochi.video import DEFAULT_QUALITY, FORMATS, VideoWriter, check_video
from . import widgets
from .host.checks import check_latent, check_links, complaint
from .host.output import check_prefix, metadata_of, next_path, show
from .host.progress import steps
from .host.safety import Checks, settings_of
from .host.signing import check_signing, seal_for
from .host.sockets.vae import MochiVAE
from .host.types import Latent, Vae
from .safety import MochiSafety

NEEDS_VAE = "images are latents, so a VAE is needed: connect Load AsymmVAE (Mochi) to `vae`"


class SaveVideo(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelSaveVideo",
            "Mochi Save Video",
            "Saves frames as a video in ComfyUI's output folder, with the workflow in it: drop the file on the canvas "
            "to get the graph back.",
            found_as=("export video", "mp4", "webm", "gif", "video combine"),
            inputs=[
                io.MultiType.Input(
                    "images",
                    types=[io.Image, io.Video, io.Latent],
                    tooltip="The frames; or a video, whose sound is left out; or latents, and at `vae` what decodes "
                    "them: then frames are saved as they are decoded, and a long video never has to fit in memory.",
                ),
                widgets.number(
                    "fps",
                    PREVIEW.defaults.fps,
                    (0.01, 1000.0),
                    "Frames a second; Mochi was made for 30, and a gif can have 50. A given video keeps its own.",
                    step=0.01,
                    round=0.01,
                ),
                widgets.choice(
                    "format",
                    FORMATS,
                    "mp4 (H.264) plays everywhere; webm (VP9) is smaller; gif has 256 colours; png is a folder with a "
                    "lossless file for each frame.",
                ),
                widgets.count(
                    "quality",
                    DEFAULT_QUALITY,
                    (0, 100),
                    "Of mp4 and webm: 70 looks lossless, each 12 more doubles the file.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/mochi",
                    tooltip="Folder and start of the name, inside ComfyUI's output folder. A number is put behind. "
                    "%date:yyyy-MM-dd% becomes the date, %Mochi Sampler.seed% the value of a node's widget.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Only for latents: from Load AsymmVAE (Mochi)."),
                MochiSafety.Input(
                    "safety",
                    optional=True,
                    tooltip="From Mochi Safety: frames are checked before they reach the disk. One that is blocked "
                    "ends the run, and nothing of the video stays.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        filename_prefix: str | None = None,
        format: str | None = None,
        fps: float | None = None,
        input_types: dict[str, str] | None = None,
    ) -> bool | str:
        """Checks what is known of the file before anything runs, so that no finished video is lost."""
        linked = input_types or {}
        found = complaint(check_links, cls, linked)
        if linked.get("images") == "LATENT" and "vae" not in linked:
            found = found or NEEDS_VAE
        found = found or complaint(
            check_prefix, filename_prefix, "webm" if format is None else format, widget="filename_prefix"
        )
        found = found or complaint(check_signing, format, widget="format")
        has_own_rate = linked.get("images") == "VIDEO"
        return found or complaint(check_video, format, None if has_own_rate else fps) or True

    @classmethod
    def execute(
        cls,
        images: Tensor | Input.Video | Latent,
        fps: float,
        format: str,
        quality: int,
        filename_prefix: str,
        vae: Vae | None = None,
        safety: Checks | None = None,
    ) -> io.NodeOutput:
        rate: float | Fraction = fps
        if isinstance(images, Input.Video):
            components = images.get_components()
            images, rate = components.images, components.frame_rate
        width, height, give = frames_of_latents(images, vae) if isinstance(images, dict) else frames_of_images(images)
        check_video(format, rate, (width, height))
        path = next_path(filename_prefix, format, width, height, cls.hidden)
        guard = None if safety is None else safety.guard
        seal = seal_for(cls.hidden, format, width=width, height=height, fps=float(rate))
        with (
            logged(guard and guard.log),
            VideoWriter(path, rate, (width, height), format, quality, metadata_of(cls.hidden), seal=seal) as video,
            guarded(video.write, guard, settings_of(cls.hidden)) as write,
        ):
            give(write)
        return io.NodeOutput(ui=show(video.path))


Take = Callable[[Tensor], None]
"""Takes frames (some, H, W, 3)."""


def frames_of_images(images: Tensor) -> tuple[int, int, Callable[[Take], None]]:
    """Width, height, and a function that gives the frames of images (F, H, W, 3 or 4) one by one."""

    def give(take: Take) -> None:
        for frame in steps(images, len(images)):
            take(frame[None, ..., :3])

    return images.shape[2], images.shape[1], give


def frames_of_latents(samples: Latent, vae: Vae | None) -> tuple[int, int, Callable[[Take], None]]:
    """Width, height, and a function that gives the frames of latents, as they are decoded if the VAE can do so."""
    if vae is None:
        raise MochiError(NEEDS_VAE)
    latents = samples["samples"]
    check_latent(latents.shape)
    height, width = (SPACE * length for length in latents.shape[3:])
    if isinstance(vae, MochiVAE):
        return width, height, partial(vae.decode_into, latents)
    return width, height, lambda take: take(vae.decode(latents).flatten(0, 1))
