"""The command line: its commands, errors and exit codes."""

import argparse
import logging
import sys
from collections.abc import Sequence

from ..errors import GroupError, MochiError
from . import download, generate, inspect, train
from .streams import tolerant_output


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="python -m mochi", description="Generate video with Mochi 1.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (generate, train, download, inspect):
        command.add_parser(commands)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Returns the exit code: 0, 1 when a rank failed, 2 for an error in settings or files, 130 when interrupted.
    """
    with tolerant_output():
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        options = parser().parse_args(arguments)
        try:
            options.run(options)
        except (MochiError, GroupError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2 if isinstance(error, MochiError) else 1
        except KeyboardInterrupt:
            print("cancelled", file=sys.stderr)
            return 130
        return 0
