"""What a row claims of the outputs of its graph, and the words for it in the table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from scripts.client import PromptFailed
from tests.host.mixed.graph import Graph, Link, Output, difference

CLOSE = 1e-5
DIFFERS = "differs"
FRAMES_CLOSE = 1e-4  # frames are compared as the latents that they are encoded to, and the encoder widens a gap


@dataclass(frozen=True)
class Check:
    """wanted: outputs of the graph. test: of what came of them, raises AssertionError. words: for the table."""

    wanted: tuple[Link | Output, ...]
    test: Callable[..., None]
    words: str


@dataclass(frozen=True)
class Refusal:
    """The run ends at a node of this type, whose message says this."""

    wanted: Link | Output
    node: str
    says: str


def equal(a: Link, b: Link, within: float = CLOSE) -> Check:
    """The same latents. within: relative difference; 0 is to the last bit."""

    def test(first: Any, second: Any) -> None:
        found = difference(first, second)
        assert found <= within, f"the relative difference is {found:.2g}"

    return Check((a, b), test, f"equal to {within:.0e}".replace("e-0", "e-") if within else "equal in every bit")


def same_frames(g: Graph, a: Link, b: Link) -> Check:
    return equal(g.encoded(a), g.encoded(b), FRAMES_CLOSE)


def unlike(a: Link, b: Link, at_least: float = 0.01) -> Check:
    """Finite latents of one shape that differ."""

    def test(first: Any, second: Any) -> None:
        found = difference(first, second)
        assert at_least <= found < math.inf, f"the relative difference is {found:.2g}"

    return Check((a, b), test, DIFFERS)


def holds(test: Callable[..., None], *wanted: Link | Output, words: str = "holds") -> Check:
    """Whatever `test` asserts."""
    return Check(wanted, test, words)


def refused(wanted: Link | Output, node: str, says: str) -> Refusal:
    return Refusal(wanted, node, says)


def judged(graph: Graph, checks: Iterable[Check | Refusal]) -> str:
    """Run the graph, assert every check, and say what was seen."""
    words = list(dict.fromkeys(_judged(graph, list(checks))))
    # That something else differs goes without saying, where there is more to say.
    return "; ".join([word for word in words if word not in ("", DIFFERS)] or words)


def _judged(graph: Graph, checks: list[Check | Refusal]) -> Iterator[str]:
    plain = [check for check in checks if isinstance(check, Check)]
    wanted = [item for check in plain for item in check.wanted]
    made = iter(graph.run(*wanted) if wanted else ())
    for check in plain:
        check.test(*(next(made) for _ in check.wanted))
        yield check.words
    for check in checks:
        if isinstance(check, Refusal):
            with pytest.raises(PromptFailed, match=re.escape(check.says)) as failure:
                graph.run(check.wanted)
            assert failure.value.details["node_type"] == check.node
            yield f"refused: “{check.says}”"
