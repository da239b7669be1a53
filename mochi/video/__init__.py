"""Frames to a video file: mp4, webm, gif or a folder of PNG."""

from .limits import check_video
from .paths import FORMATS, check_writable, format_of, target_path
from .writer import DEFAULT_QUALITY, VideoWriter

__all__ = ["DEFAULT_QUALITY", "FORMATS", "VideoWriter", "check_video", "check_writable", "format_of", "target_path"]
