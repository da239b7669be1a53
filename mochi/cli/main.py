"""The command line: its commands, errors and exit codes."""

import argparse
import logging
import sys
from collections.abc import Sequence

from ..errors import GroupError, MochiError
from . import download, generate, inspect, train
from .names import Parser
from .streams import tolerant_output


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="python -m mochi", description="Generate video with Mochi 1.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in (generate, train, download, inspect):
        command.add_parser(commands)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line. Where it begins with an option, the command is `generate`.

    Returns the exit code: 0, 1 when a rank failed, 2 for an error in settings or files, 130 when interrupted.
    """
    with tolerant_output():
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        options = parser().parse_args(_with_command(sys.argv[1:] if arguments is None else arguments))
        try:
            options.run(options)
        except (MochiError, GroupError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2 if isinstance(error, MochiError) else 1
        except KeyboardInterrupt:
            print("cancelled", file=sys.stderr)
            return 130
        return 0


def _with_command(arguments: Sequence[str]) -> list[str]:
    first = next(iter(arguments), "")
    return [*(["generate"] if first.startswith("-") and first not in ("-h", "--help") else []), *arguments]
