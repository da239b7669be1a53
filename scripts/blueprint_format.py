"""A graph as a blueprint of the editor: one node, from its library, with the graph inside it as a subgraph."""

import uuid
from dataclasses import dataclass
from typing import Any

from scripts.workflow_format import WIDGET_TYPES, Drawn, Graph, Link

INPUT, OUTPUT = -10, -20  # the numbers that the editor gives to the two ends of a subgraph
END_WIDTH, END_GAP = 160, 80
CONTROL = "control_after_generate"


@dataclass
class Blueprint:
    """A node with a graph inside.

    Attributes:
        graph: What is inside. Its name is that of the node and of the file.
        inputs: Name -> the inputs of nodes inside, (node, input), that it feeds; all have the same type. A widget
            inside is a widget of the blueprint's node, with the same value.
        output: What comes out.
        description: Shown in the node library.
        aliases: Other words by which the editor's search finds it.
    """

    graph: Graph
    inputs: dict[str, list[tuple[str, str]]]
    output: Link
    description: str
    aliases: list[str]


class DrawnBlueprint:
    """A blueprint as a file of the editor, as it is saved in `subgraphs/`."""

    def __init__(self, blueprint: Blueprint, object_info: dict[str, dict]):
        self.blueprint, self.name = blueprint, blueprint.graph.name
        self._drawn = Drawn(blueprint.graph, object_info)
        self._inside = self._drawn.editor()
        self._nodes = {name: self._inside["nodes"][number - 1] for name, number in self._drawn.number.items()}
        for name, node in self._nodes.items():  # as the editor saves them: a slot of a link counts widgets too
            widgets = [(key, kind) for key, kind, _, _ in self._drawn.inputs(name) if kind in WIDGET_TYPES]
            node["inputs"] += [
                {"name": key, "type": kind, "widget": {"name": key}, "link": None} for key, kind in widgets
            ]
        self._links = [
            {"id": id, "origin_id": a, "origin_slot": out, "target_id": b, "target_slot": into, "type": kind}
            for id, a, out, b, into, kind in self._inside["links"]
        ]

    def editor(self) -> dict[str, Any]:
        """The file: a graph of one node, and the definition of that node."""
        inputs = [self._feed(slot, name) for slot, name in enumerate(self.blueprint.inputs)]
        outputs = [self._give()]
        definition = self._definition(inputs, outputs)
        return {
            "id": self._id("file"),
            "revision": 0,
            "last_node_id": len(self._nodes) + 1,
            "last_link_id": 0,
            "nodes": [self._node(definition)],
            "links": [],
            "groups": [],
            "definitions": {"subgraphs": [definition]},
            "config": {},
            "extra": {
                "BlueprintDescription": self.blueprint.description,
                "BlueprintSearchAliases": self.blueprint.aliases,
            },
            "version": 0.4,
        }

    def _definition(self, inputs: list[dict], outputs: list[dict]) -> dict[str, Any]:
        boxes = [group["bounding"] for group in self._inside["groups"]]
        right = max(x + width for x, _, width, _ in boxes)
        last = {"lastGroupId": len(boxes), "lastNodeId": len(self._nodes) + 1, "lastLinkId": len(self._links)}
        return {
            "id": self._id("subgraph"),
            "version": 1,
            "state": {**last, "lastRerouteId": 0},
            "revision": 0,
            "config": {},
            "name": self.name,
            "inputNode": {"id": INPUT, "bounding": [-END_GAP - END_WIDTH, 0, END_WIDTH, 40 + 20 * len(inputs)]},
            "outputNode": {"id": OUTPUT, "bounding": [right + END_GAP, 0, END_WIDTH, 40 + 20 * len(outputs)]},
            "inputs": inputs,
            "outputs": outputs,
            "widgets": [],
            "nodes": self._inside["nodes"],
            "groups": self._inside["groups"],
            "links": self._links,
            "extra": {},
            "category": "Mochi",
            "description": self.blueprint.description,
        }

    def _node(self, definition: dict[str, Any]) -> dict[str, Any]:
        """The node on the canvas. Its widgets are those inside, by their names at the subgraph's end."""
        sockets, widgets = [], {}
        for name, targets in self.blueprint.inputs.items():
            node, key = targets[0]
            kind, options = self._input(node, key)
            widget = {"widget": {"name": name}} if kind in WIDGET_TYPES else {}
            sockets.append({"name": name, "type": kind, **widget, "link": None})
            if widget:
                widgets["-1", name] = self.blueprint.graph.nodes[node].inputs[key]
            if options.get(CONTROL):
                widgets[str(self._drawn.number[node]), CONTROL] = "randomize"
        return {
            "id": len(self._nodes) + 1,
            "type": definition["id"],
            "pos": [0, 0],
            "size": [400, 40 + 24 * len(widgets) + 120],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": sockets,
            "outputs": [{"name": o["name"], "type": o["type"], "links": None} for o in definition["outputs"]],
            "properties": {"proxyWidgets": [list(widget) for widget in widgets]},
            "widgets_values": list(widgets.values()),
            "title": self.name,
        }

    def _feed(self, slot: int, name: str) -> dict[str, Any]:
        """Link an input of the subgraph to what it feeds inside."""
        links, kind = [], ""
        for target, key in self.blueprint.inputs[name]:
            node = self._nodes[target]
            kind, _ = self._input(target, key)
            into = [socket["name"] for socket in node["inputs"]].index(key)
            links.append(self._link(INPUT, slot, node["id"], into, kind))
            node["inputs"][into]["link"] = links[-1]
        place = [-END_GAP, 20 + 20 * slot]
        return {"id": self._id("input", name), "name": name, "type": kind, "linkIds": links, "pos": place}

    def _give(self) -> dict[str, Any]:
        """Link what comes out to the end of the subgraph."""
        source, number = self.blueprint.output
        node = self._nodes[source]
        out = node["outputs"][number]
        link = self._link(node["id"], number, OUTPUT, 0, out["type"])
        out["links"] = [*(out["links"] or []), link]
        return {"id": self._id("output", out["name"]), "name": out["name"], "type": out["type"], "linkIds": [link]}

    def _link(self, origin: int, out: int, target: int, into: int, kind: str) -> int:
        number = len(self._links) + 1
        ends = {"origin_id": origin, "origin_slot": out, "target_id": target, "target_slot": into}
        self._links.append({"id": number, **ends, "type": kind})
        return number

    def _input(self, node: str, key: str) -> tuple[str, dict[str, Any]]:
        """Type and options of an input of a node inside."""
        return next((kind, options) for name, kind, options, _ in self._drawn.inputs(node) if name == key)

    def _id(self, *parts: str) -> str:
        """The same each time, so that a file changes only where its graph does."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join((self.name, *parts))))
