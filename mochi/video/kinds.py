"""Which kind of video a file or a folder is, by what is in it."""

from pathlib import Path

FRAMES = "frame_*.png"
PNG, GIF, EBML = b"\x89PNG\r\n\x1a\n", b"GIF8", b"\x1aE\xdf\xa3"


def kind_of(path: Path) -> str | None:
    """ "mp4", "webm", "gif" or "png", which is a picture or a folder of frames; None where it is none of them.

    Raises OSError where it cannot be read.
    """
    if path.is_dir():
        return "png" if any(path.glob(FRAMES)) else None
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return "mp4"
    return next((kind for start, kind in ((EBML, "webm"), (GIF, "gif"), (PNG, "png")) if head.startswith(start)), None)
