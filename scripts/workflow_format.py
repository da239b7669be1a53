"""A graph of nodes in the two formats of ComfyUI: the editor's, with places and colours, and the API's."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# The last is a list whose entries can bring inputs of their own; those chosen here bring none.
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
NOTE = "MarkdownNote"  # the editor's own, not known to the server
MARGIN, TITLE, GROUP_TITLE = 20, 30, 40
# What a node of the editor's Nodes 2.0 is made of, in pixels of the canvas: a slot or widget a line, the edges and the
# pack's name; and the line that says below it that a file is missing.
SLOT, WIDGET, EDGES, ERROR = 20, 28, 38, 24


class Link(NamedTuple):
    """An input that comes from another node's output."""

    node: str
    output: int = 0


@dataclass
class Node:
    """A node of a graph: its inputs by name, and how it looks.

    outputs: how many it has in the oldest ComfyUI that is supported. The editor of a newer one adds what it lacks.
    """

    kind: str
    inputs: dict[str, Any] = field(default_factory=dict)
    width: int = 320
    height: int | None = None
    title: str | None = None
    colours: tuple[str, str] | None = None
    models: list[dict[str, str]] = field(default_factory=list)
    outputs: int | None = None


@dataclass
class Group:
    """A titled column of nodes, top to bottom."""

    title: str
    nodes: list[str]


@dataclass
class Graph:
    """A workflow.

    Attributes:
        app: The widgets (node, widget) that the editor's app mode shows, in which the graph then opens.
        result: The node whose result app mode shows.
        newer: Kinds of nodes in it that the oldest supported ComfyUI does not have.
    """

    name: str
    nodes: dict[str, Node]
    groups: list[Group]
    app: list[tuple[str, str]] = field(default_factory=list)
    result: str = "save"
    newer: set[str] = field(default_factory=set)

    def lacking(self, object_info: Collection[str]) -> list[str]:
        """The kinds of its newer nodes that a ComfyUI does not know."""
        return sorted(self.newer - set(object_info))


class Drawn:
    """A graph whose nodes have numbers, sizes and places."""

    def __init__(self, graph: Graph, object_info: dict[str, dict]):
        self.graph, self.info = graph, object_info
        names = sorted(graph.nodes, key=lambda name: graph.nodes[name].kind == NOTE)
        self.number = {name: i for i, name in enumerate(names, start=1)}

    def api(self) -> dict[str, dict]:
        """The graph as it is queued."""
        return {
            str(self.number[name]): {
                "inputs": {
                    key: [str(self.number[value.node]), value.output] if isinstance(value, Link) else value
                    for key, value in node.inputs.items()
                },
                "class_type": node.kind,
                "_meta": {"title": node.title or self.info[node.kind]["display_name"] or node.kind},
            }
            for name, node in self.graph.nodes.items()
            if node.kind != NOTE
        }

    def editor(self) -> dict[str, Any]:
        """The graph as it is drawn and saved."""
        links = self._links()
        places, groups = self._layout()
        nodes = [self._node(name, places[name], links, order) for order, name in enumerate(self.number)]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.graph.name)),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": groups,
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [100, 200]}, **self._app()},
            "version": 0.4,
        }

    def _app(self) -> dict[str, Any]:
        """What the editor reads to open the graph as a form of some widgets. An older one does not look at it."""
        if not self.graph.app:
            return {}
        inputs = [[str(self.number[node]), widget] for node, widget in self.graph.app]
        return {"linearMode": True, "linearData": {"inputs": inputs, "outputs": [str(self.number[self.graph.result])]}}

    def _sockets(self, name: str) -> list[tuple[str, str, bool]]:
        """Name, type and whether it is optional, of the inputs that are no widgets, and then of linked widgets."""
        inputs = [(key, kind, optional) for key, kind, _, optional in self.inputs(name)]
        sockets = [socket for socket in inputs if socket[1] not in WIDGET_TYPES]
        return sockets + [socket for socket in inputs if self._is_linked_widget(name, *socket)]

    def _is_linked_widget(self, name: str, key: str, kind: str, _optional: bool = False) -> bool:
        return kind in WIDGET_TYPES and isinstance(self.graph.nodes[name].inputs.get(key), Link)

    def inputs(self, name: str) -> list[tuple[str, str, dict, bool]]:
        """Name, type, options and whether it is optional, of all inputs of a node.

        An optional widget without a value is one of a newer ComfyUI. The editor gives it its default.
        """
        node = self.graph.nodes[name]
        info = self.info.get(node.kind)
        if info is None:
            return [("text", "STRING", {}, False)]
        found = []
        for group in ("required", "optional"):
            for key, (kind, *options) in info["input"].get(group, {}).items():
                kind = "COMBO" if isinstance(kind, list) else kind
                if group == "optional" and kind in WIDGET_TYPES and key not in node.inputs:
                    continue
                found.append((key, kind, options[0] if options else {}, group == "optional"))
        return found

    def _widget_values(self, name: str) -> list[Any]:
        values = []
        for key, kind, options, _ in self.inputs(name):
            if kind in WIDGET_TYPES:
                value = self.graph.nodes[name].inputs[key]
                values.append(options.get("default", "") if isinstance(value, Link) else value)
                if options.get("control_after_generate"):
                    values.append("randomize")
        return values

    def _outputs(self, name: str) -> list[tuple[str, str]]:
        node = self.graph.nodes[name]
        info = self.info.get(node.kind, {"output_name": [], "output": []})
        return list(zip(info["output_name"], info["output"]))[: node.outputs]

    def _links(self) -> list[list]:
        links = []
        for name in self.number:
            for slot, (key, _, _) in enumerate(self._sockets(name)):
                value = self.graph.nodes[name].inputs.get(key)
                if value is not None:
                    kind = self._outputs(value.node)[value.output][1]
                    source, target = self.number[value.node], self.number[name]
                    links.append([len(links) + 1, source, value.output, target, slot, kind])
        return links

    def _node(self, name: str, place: tuple[list[int], list[int]], links: list[list], order: int) -> dict[str, Any]:
        node, number = self.graph.nodes[name], self.number[name]
        into = {link[4]: link[0] for link in links if link[3] == number}
        out_of: dict[int, list[int]] = {}
        for link in links:
            if link[1] == number:
                out_of.setdefault(link[2], []).append(link[0])
        inputs = [
            {
                "name": key,
                **({"shape": 7} if optional else {}),
                "type": kind,
                **({"widget": {"name": key}} if self._is_linked_widget(name, key, kind) else {}),
                "link": into.get(slot),
            }
            for slot, (key, kind, optional) in enumerate(self._sockets(name))
        ]
        outputs = [
            {"name": key, "type": kind, "links": out_of.get(slot)}
            for slot, (key, kind) in enumerate(self._outputs(name))
        ]
        known = {"Node name for S&R": node.kind} if node.kind != NOTE else {}
        look = {"color": node.colours[0], "bgcolor": node.colours[1]} if node.colours else {}
        return {
            "id": number,
            "type": node.kind,
            "pos": place[0],
            "size": place[1],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            **({"title": node.title} if node.title else {}),
            "properties": {**known, **({"models": node.models} if node.models else {})},
            "widgets_values": self._widget_values(name),
            **look,
        }

    def _height(self, name: str) -> int:
        """What the classic editor gives a node of so many slots and widgets."""
        widgets = len(self._widget_values(name))
        return self.graph.nodes[name].height or self._slots(name) * 20 + widgets * 24 + (14 if widgets else 6)

    def _room(self, name: str) -> int:
        """The most that a node takes in either editor: Nodes 2.0 draws it taller than it was saved."""
        lines = self._slots(name) * SLOT + len(self._widget_values(name)) * WIDGET
        return max(self._height(name), lines + EDGES) + ERROR

    def _slots(self, name: str) -> int:
        return max(len(self._sockets(name)), len(self._outputs(name)))

    def _layout(self) -> tuple[dict[str, tuple[list[int], list[int]]], list[dict[str, Any]]]:
        """Groups side by side, their nodes below one another."""
        places, groups, x = {}, [], 0
        for index, group in enumerate(self.graph.groups, start=1):
            names = [name for name in group.nodes if name in self.graph.nodes]
            width, y = max(self.graph.nodes[name].width for name in names), GROUP_TITLE
            for name in names:
                y += TITLE
                places[name] = ([x + MARGIN, y], [self.graph.nodes[name].width, self._height(name)])
                y += self._room(name) + MARGIN
            bounding = [x, 0, width + 2 * MARGIN, y]
            look = {"color": "#3f789e", "font_size": 24, "flags": {}}
            groups.append({"id": index, "title": group.title, "bounding": bounding, **look})
            x += width + 3 * MARGIN
        return places, groups
