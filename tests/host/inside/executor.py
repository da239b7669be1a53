"""What ComfyUI's executor does with a node before it runs it."""

from typing import Any


def prepared(node: Any, hidden: dict[str, Any] | None = None) -> Any:
    """The class of a V3 node whose `execute` is to be called.

    hidden: what reaches `cls.hidden`, such as "PROMPT" and "EXTRA_PNGINFO".
    """
    node.GET_SCHEMA()  # fills in what the executor reads from the schema
    hidden = hidden or {}
    # ComfyUI 0.3.75 takes this table itself, newer ones a table with this one in it: here it is both.
    return node.PREPARE_CLASS_CLONE({**hidden, "hidden_inputs": hidden})
