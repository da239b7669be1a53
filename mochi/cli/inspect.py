"""The command line: `python -m mochi inspect FILE`."""

import argparse
import json
from pathlib import Path

from .describe import describe
from .describe_video import describe_video


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the subcommand, which runs `inspect`."""
    parser = commands.add_parser(
        "inspect",
        description="Says what a weight file is: how it is quantised, which parts of a Mochi are in it, what they "
        "lack, and which loader takes it; reads no weights. Of a video it says what it is, how it was made, by the "
        "record beside it and the workflow in it, and who has signed that. A file is known by what is in it.",
    )
    parser.set_defaults(run=inspect)
    parser.add_argument(
        "file",
        type=Path,
        nargs="+",
        help="safetensors, GGUF, the folder of a checkpoint in parts; mp4, webm, gif, png, a folder of frames",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, an object for each file on a line of its own")


def inspect(options: argparse.Namespace) -> None:
    """Prints what the files are. Raises MochiError on the first that cannot be opened."""
    for path in options.file:
        described = describe_video(path) or describe(path)
        print(json.dumps(described.as_json()) if options.json else "\n".join(described.lines()), flush=True)
