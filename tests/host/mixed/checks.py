"""A graph, and what is asserted of its outputs."""

import math
import re
from dataclasses import dataclass, field
from typing import NoReturn

import pytest

from scripts.client import PromptFailed
from tests.host.mixed.graph import Graph, Link, Output, difference

DIFFERS, NO_NODE = "differs", "no such node"
FRAMES_CLOSE = 1e-4  # frames are compared as the latents that they are encoded to, and the encoder widens a gap


@dataclass
class CheckedGraph(Graph):
    """Each assertion runs the graph, as far as its outputs need it, and notes what was seen for workflows/MIXED.md."""

    seen: list[str] = field(default_factory=list)

    def needs(self, *kinds: str) -> None:
        """Skip the test where the host lacks one of these nodes."""
        for kind in kinds:
            if not self.info(kind):
                self.skip(NO_NODE)

    def skip(self, words: str) -> NoReturn:
        """Words for the table, of what this host lacks."""
        self.note(words)
        pytest.skip(words)

    def note(self, words: str) -> None:
        """Words for the table, of what was asserted."""
        self.seen.append(words)

    def assert_equal(self, made: Link, right: Link, within: float = 1e-5) -> None:
        """The same latents. within: relative difference; 0 is to the last bit."""
        found = difference(*self.run(made, right))
        assert found <= within, f"the relative difference is {found:.2g}"
        self.note(f"equal to {within:.0e}".replace("e-0", "e-") if within else "equal in every bit")

    def assert_same_frames(self, made: Link, right: Link) -> None:
        self.assert_equal(self.encoded(made), self.encoded(right), FRAMES_CLOSE)

    def assert_differ(self, made: Link, other: Link, at_least: float = 0.01) -> None:
        """Finite latents of one shape that differ."""
        found = difference(*self.run(made, other))
        assert at_least <= found < math.inf, f"the relative difference is {found:.2g}"
        self.note(DIFFERS)

    def assert_refused(self, wanted: Link | Output, node: str, says: str) -> None:
        """The run ends at a node of this type, whose message says this."""
        with pytest.raises(PromptFailed, match=re.escape(says)) as failure:
            self.run(wanted)
        assert failure.value.details["node_type"] == node
        self.note(f"refused: “{says}”")

    def summary(self) -> str:
        """What was seen, each once. That something else differs is said only where there is nothing else to say."""
        words = list(dict.fromkeys(self.seen))
        return "; ".join([word for word in words if word != DIFFERS] or words)
