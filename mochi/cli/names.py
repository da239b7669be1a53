"""Names of options: written with hyphens or underscores, shortened, or as published."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from .published import OURS


class Parser(argparse.ArgumentParser):
    """A parser of one command that takes a long option by any of its names. Help has ours."""

    # Its declaration has three signatures, for namespaces of other kinds.
    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """See ArgumentParser, which calls this with the arguments behind the command."""
        return super().parse_known_args(None if args is None else self._renamed(args), namespace)

    def _renamed(self, arguments: Sequence[str]) -> list[str]:
        dests = {name: action.dest for name, action in self._option_string_actions.items()}
        end = arguments.index("--") if "--" in arguments else len(arguments)  # prompts may begin with a dash behind it
        return [*(in_our_name(each, dests) for each in arguments[:end]), *arguments[end:]]


def in_our_name(argument: str, dests: Mapping[str, str]) -> str:
    """An argument with its option's name as the parser knows it; one that has no such name stays as it is.

    A shortened name stands for one of ours, or else for a published one. One that could be several stays as it is too,
    and the parser refuses it.

    Args:
        argument: such as `--num_frames=7`. What is behind the sign stays as it is.
        dests: where the parser puts the value of each option that it knows, by name.
    """
    if not argument.startswith("--"):
        return argument
    name, sign, value = argument.partition("=")
    name = name.replace("_", "-")
    ours = {option: option for option in dests}
    published = {_option(theirs): _option(own) for theirs, own in OURS.items() if _option(own) in dests}
    for known in (ours, published):
        if name in known:
            return known[name] + sign + value
    for known in (ours, published):
        meant = [own for option, own in known.items() if option.startswith(name)]
        if meant:
            return (meant[0] if len({dests[own] for own in meant}) == 1 else name) + sign + value
    return argument


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
