"""The command line: its commands, errors and exit codes."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from ..errors import GroupError, MochiError
from .names import Parser
from .streams import tolerant_output

COMMANDS = {
    "generate": "make a video from a prompt",
    "ui": "a web page to make videos with",
    "train-lora": "train a LoRA on a folder of clips",
    "download": "fetch published weights",
    "inspect": "say what a weight file is, or how a video was made",
}
"""Each has a module with `add_parser`; the part of its name behind a hyphen is left out there."""


def parser(command: str) -> argparse.ArgumentParser:
    """The parser of a command line. Only the module of its command is imported: some take seconds."""
    main = argparse.ArgumentParser(prog="python -m mochi", description="Generate video with Mochi 1.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, help in COMMANDS.items():
        if name == command:
            import_module(f".{name.partition('-')[0]}", __package__).add_parser(commands)
        else:
            commands.add_parser(name, help=help)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line. Where it begins with an option, the command is `generate`.

    Returns the exit code: 0, 1 when a rank failed, 2 for an error in settings or files, 130 when interrupted.
    """
    with tolerant_output():
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        arguments = _with_command(sys.argv[1:] if arguments is None else arguments)
        options = parser(next(iter(arguments), "")).parse_args(arguments)
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
