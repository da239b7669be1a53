"""What stands between percent signs in a name, filled in as ComfyUI's editor does it for its own save nodes.

The editor does so in its own nodes only, and the server knows neither. A date is `%date:yyyy-MM-dd%`, the value of a
widget `%Node.widget%`. What ComfyUI's server fills in itself, `%year%` and `%width%` among them, is left to it.
"""

import importlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

log = logging.getLogger(__name__)

PATTERN = re.compile("%([^%]+)%")
DATE = re.compile("dd?|MM?|hh?|mm?|ss?|yyy?y?")
FORBIDDEN = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f\ud800-\udfff]')
"""What the editor takes out of values, and halves of characters."""

Lookup = Callable[[str, str], str | None]
"""The value of a node's widget, as the editor shows it. None where there is none."""


def fill(prefix: str, look_up: Lookup, now: datetime | None = None) -> str:
    """A name with its dates and values. What is not found stays as it is."""
    time = now or datetime.now()

    def filled(match: re.Match[str]) -> str:
        if match[1].startswith("date:"):
            return format_date(match[1].removeprefix("date:"), time)
        names = match[1].split(".")
        value = look_up(*names) if len(names) == 2 else None
        if value is None:
            return match[0]
        value = FORBIDDEN.sub("_", value)
        return value if value.strip(".") else "_" * len(value)  # a value is never the folder above

    return PATTERN.sub(filled, prefix)


def format_date(pattern: str, time: datetime) -> str:
    """A date in the editor's letters: d, M, h, m and s, doubled for two digits, yy and yyyy."""
    parts = {"d": time.day, "M": time.month, "h": time.hour, "m": time.minute, "s": time.second}

    def part(match: re.Match[str]) -> str:
        letters = match[0]
        if letters[0] in parts:
            return f"{parts[letters[0]]:0{len(letters)}}"
        return {"yy": str(time.year)[2:], "yyyy": str(time.year)}.get(letters, letters)

    return DATE.sub(part, pattern)


def widgets_of(prompt: Mapping[str, Any], workflow: Any = None) -> Lookup:
    """The widgets of a prompt in API format.

    workflow: the editor's graph, which knows titles and names for search and replace; None where there is no editor.
    A node is found by its name for search and replace, which is its type unless somebody changed it; else by its title,
    or by the English name of its type, for clients that send no titles and editors in another language.
    """
    try:
        drawn = dict(_drawn(workflow))
    except (AttributeError, KeyError, RecursionError, TypeError):  # no graph of the editor's: any client can send one
        drawn = {}
    numbers = [number for number in drawn if number in prompt] + [number for number in prompt if number not in drawn]
    display_names = importlib.import_module("nodes").NODE_DISPLAY_NAME_MAPPINGS  # ComfyUI's `nodes`, not this package

    def name_of(number: str) -> Any:
        return _at(drawn.get(number), "properties", "Node name for S&R") or _at(prompt[number], "class_type")

    def title_of(number: str) -> Any:
        return _at(prompt[number], "_meta", "title") or _at(drawn.get(number), "title")

    def display_name_of(number: str) -> Any:
        return display_names.get(_at(prompt[number], "class_type"))

    def look_up(node: str, widget: str) -> str | None:
        ways = ([n for n in numbers if way(n) == node] for way in (name_of, title_of, display_name_of))
        found = next(filter(None, ways), [])
        if not found:
            log.warning("filename_prefix: there is no node %a for %%%s%%", node, ascii(f"{node}.{widget}")[1:-1])
            return None
        inputs = _at(prompt[found[0]], "inputs") or {}
        value = in_words(inputs[widget]) if widget in inputs else None
        if value is None:
            log.warning("filename_prefix: node %a has no widget %a, or it is linked", node, widget)
        elif len(found) > 1:
            log.warning("filename_prefix: several nodes are called %a; the first is taken", node)
        return value

    return look_up


def in_words(value: Any) -> str | None:
    """A widget's value as the editor writes it, None for what is no value, such as a link."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{Decimal(repr(value)):f}"
    return str(value) if isinstance(value, (int, str)) else None


def _drawn(workflow: Any) -> Iterator[tuple[str, Any]]:
    """The nodes of the editor's graph under their numbers in the prompt: `4:7` is node 7 in the subgraph of node 4."""
    subgraphs = {graph["id"]: graph for graph in _at(workflow, "definitions", "subgraphs") or []}

    def walk(graph: Any, above: str) -> Iterator[tuple[str, Any]]:
        for node in _at(graph, "nodes") or []:
            number = f"{above}{node['id']}"
            yield number, node
            if node.get("type") in subgraphs:
                yield from walk(subgraphs[node["type"]], f"{number}:")

    return walk(workflow, "")


def _at(value: Any, *keys: str) -> Any:
    """What lies under keys in JSON, None where nothing does."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
