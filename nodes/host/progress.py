"""The progress bar and the text of the node that runs now, and its cancel button."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import comfy.model_management as mm
import comfy.utils
from comfy_execution.utils import get_executing_context
from server import PromptServer

Item = TypeVar("Item")


def steps(items: Iterable[Item], total: int) -> Iterator[Item]:
    """The `total` items one by one, with progress; raises the host's interrupt when the user cancels."""
    bar = comfy.utils.ProgressBar(total)
    for item in items:
        mm.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)


def progress() -> Callable[[int, int], None]:
    """To be told (done, in all); raises the host's interrupt when the user cancels."""
    bar = comfy.utils.ProgressBar(1)

    def report(done: int, total: int) -> None:
        mm.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return report


def show_text(text: str) -> None:
    """Show a line of text in the node that runs, if one does."""
    node = get_executing_context()
    if node is not None:
        PromptServer.instance.send_progress_text(text, node.node_id)


def show_now(results: dict[str, Any]) -> None:
    """Show results in the node that runs, before it has ended, as it will show its last ones."""
    node, server = get_executing_context(), PromptServer.instance
    if node is not None and server.client_id is not None:
        told = {"node": node.node_id, "display_node": node.node_id, "output": results, "prompt_id": node.prompt_id}
        server.send_sync("executed", told, server.client_id)
