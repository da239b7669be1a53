"""Frames to a video file."""

from __future__ import annotations

from comfy_api.latest import Input, io

from ..mochi.config import PREVIEW
from ..mochi.video import DEFAULT_QUALITY, FORMATS, VideoWriter
from .host.checks import complaint
from .host.output import check_prefix, metadata_of, next_path, show
from .host.progress import steps


class SaveVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MochiSaveVideo",
            display_name="Mochi Save Video",
            category="Mochi",
            description="Saves frames as a video in ComfyUI's output folder, with the workflow in it: drop the file on "
            "the canvas to get the graph back.",
            inputs=[
                io.MultiType.Input(
                    "images", types=[io.Image, io.Video], tooltip="The frames, or a video, whose sound is left out."
                ),
                io.Float.Input(
                    "fps",
                    default=PREVIEW.defaults.fps,
                    min=0.01,
                    max=1000.0,
                    step=1.0,
                    round=0.01,
                    tooltip="Frames a second; Mochi was made for 30. A given video keeps its own.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="mp4",
                    tooltip="mp4 (H.264) plays everywhere; webm (VP9) is smaller; gif has 256 colours; png is a folder "
                    "with a lossless file for each frame.",
                ),
                io.Int.Input(
                    "quality",
                    default=DEFAULT_QUALITY,
                    min=0,
                    max=100,
                    tooltip="Of mp4 and webm: 70 looks lossless, each 12 more doubles the file.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/mochi",
                    tooltip="Folder and start of the name, inside ComfyUI's output folder. A number is put behind, and "
                    "%date:yyyy-MM-dd% becomes the date.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix, format="mp4") -> bool | str:
        """Before anything runs, so that no finished video is lost; a linked widget has no value yet."""
        return complaint(check_prefix, filename_prefix, format)

    @classmethod
    def execute(cls, images, fps: float, format: str, quality: int, filename_prefix: str) -> io.NodeOutput:
        if isinstance(images, Input.Video):
            components = images.get_components()
            images, fps = components.images, components.frame_rate
        height, width = images.shape[1:3]
        path = next_path(filename_prefix, format, width, height)
        with VideoWriter(path, fps, (width, height), format, quality, metadata_of(cls.hidden)) as video:
            for frame in steps(images, len(images)):
                video.write(frame[None, ..., :3])
        return io.NodeOutput(ui=show(video.path))
