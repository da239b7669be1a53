"""Writes locales/en/nodeDefs.json: the texts of the nodes, in the form in which ComfyUI's editor looks them up.

`python -m scripts.make_locales` (in the virtual environment) starts a ComfyUI and asks it for the nodes, so that
English is written once, in the nodes themselves: run it again when a text of a node has changed, and bring
locales/zh up to date.
"""

import json
import tempfile
from pathlib import Path

from scripts.client import ComfyClient
from scripts.comfyui import PACK_NAME, PROJECT, find_or_fetch_comfyui, prepare_base
from scripts.server import ComfyServer

ENGLISH = PROJECT / "locales" / "en" / "nodeDefs.json"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base(Path(folder))
        with ComfyServer(find_or_fetch_comfyui(), base) as server:
            object_info = ComfyClient(server.url).object_info()
    module = f"custom_nodes.{PACK_NAME}"
    texts = {
        _key(node): texts_of(info)
        for node, info in object_info.items()
        if info["python_module"] == module and not info["deprecated"]  # an old id of one of them
    }
    if not texts:
        raise SystemExit("ComfyUI did not load the pack: start it with `python -m scripts.serve` to see why.")
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    ENGLISH.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(ENGLISH)


def texts_of(info: dict) -> dict:
    """The texts of a node by its description in object_info."""
    inputs = [entry for kind in ("required", "optional") for entry in info["input"].get(kind, {}).items()]
    outputs = zip(info["output_name"], info["output_tooltips"])
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {
            _key(name): {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
            for name, (_, options) in inputs
        },
        "outputs": {str(index): {"name": name, "tooltip": tooltip} for index, (name, tooltip) in enumerate(outputs)},
    }


def _key(name: str) -> str:
    """As the editor looks it up, where a dot leads into the next table."""
    return name.replace(".", "_")


if __name__ == "__main__":
    main()
