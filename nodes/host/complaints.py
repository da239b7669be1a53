"""What a check says is shown once, at the widget that it is about.

The host repeats what a node's `validate_inputs` says for each of its arguments: a missing file would be refused at
`gpus` too.
"""

import json
from typing import Any

from aiohttp import web

LATEST = 64
"""Complaints that are remembered, until the host has answered."""

_said: dict[str, str] = {}  # message -> widget


def note(message: str, widget: str = "") -> str:
    """Remember what a check says, and of which widget, where the message does not begin with its name."""
    _said.pop(message, None)  # the newest are last
    _said[message] = widget
    if len(_said) > LATEST:
        del _said[next(iter(_said))]
    return message


def once(node_errors: dict[str, Any]) -> None:
    """Leave each complaint at one widget. The argument is that of the host's answer to a prompt."""
    for node in node_errors.values():
        widgets: dict[str, list[str]] = {}
        for error in node["errors"]:
            widgets.setdefault(_message(error), []).append(_widget(error))
        node["errors"] = [error for error in node["errors"] if _stays(error, widgets[_message(error)])]


def _stays(error: dict[str, Any], widgets: list[str]) -> bool:
    message = _message(error)
    if message not in _said:
        return True
    named = [name for name in (message.split(" ", 1)[0], _said[message]) if name in widgets]
    return _widget(error) == (named or widgets)[0]


def _widget(error: dict[str, Any]) -> str:
    return error["extra_info"].get("input_name", "")


def _message(error: dict[str, Any]) -> str:
    return error["details"].removeprefix(f"{_widget(error)} - ")


@web.middleware
async def _answer(request: web.Request, handler: Any) -> web.StreamResponse:
    response = await handler(request)
    if request.path.endswith("/prompt") and isinstance(response, web.Response) and response.status == 400:
        try:
            answer = json.loads(response.text or "")
            once(answer["node_errors"])
        except (ValueError, LookupError, TypeError, AttributeError):  # an answer of another kind
            return response
        response.text = json.dumps(answer)
    return response


def show_complaints_once() -> None:
    """Have the host's answers say each complaint once."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and not server.app.frozen:
        server.app.middlewares.append(_answer)
