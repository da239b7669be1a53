"""Queue a workflow on a ComfyUI from a program, follow its progress, and fetch the video.

    python client.py tiny_text_to_video.json --prompt "a blue star moves up on a black background" --seed 7

Nothing but ComfyUI's own interface and aiohttp, which ComfyUI has too: take what you need.
"""

import argparse
import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import aiohttp

SAMPLERS = ("MochiParallelSampler", "MochiParallelResample", "KSampler")


def changed(graph: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A graph in API format with other widget values: `prompt` of the node that is titled "Prompt" (or "New prompt",
    where a clip is edited), all else of the last sampler that has such a widget.

    Raises KeyError where there is none.
    """
    graph = json.loads(json.dumps(graph))
    for name, value in values.items():
        if name == "prompt":
            nodes = [node for node in graph.values() if node["_meta"]["title"] in ("Prompt", "New prompt")]
            name = next((key for node in nodes for key in ("prompt", "text") if key in node["inputs"]), name)
        else:
            nodes = [node for node in graph.values() if node["class_type"] in SAMPLERS and name in node["inputs"]]
        if not nodes:
            raise KeyError(f"no node of this graph has a {name} to change")
        nodes[-1]["inputs"][name] = value
    return graph


async def run(server: str, graph: dict[str, Any], folder: Path, tell: Any = print) -> list[Path]:
    """Queue a graph and wait; its files are fetched into the folder. Raises RuntimeError with the server's reasons."""
    client = uuid.uuid4().hex
    async with aiohttp.ClientSession(server) as session:
        # Listen first: a short run would be over before.
        async with session.ws_connect(f"/ws?clientId={client}", max_msg_size=0) as events:
            async with session.post("/prompt", json={"prompt": graph, "client_id": client}) as answer:
                told = await answer.json()
                if answer.status != 200:
                    raise RuntimeError(f"refused: {json.dumps(told, indent=2)}")
            number = told["prompt_id"]
            async for event in events:
                if event.type is not aiohttp.WSMsgType.TEXT:
                    continue  # a preview picture
                event = event.json()
                kind, data = event["type"], event["data"]
                if data.get("prompt_id") != number:
                    continue  # somebody else's
                if kind == "progress":
                    tell(f"{graph[data['node']]['class_type']}: {data['value']} of {data['max']}")
                elif kind == "execution_error":
                    raise RuntimeError(f"{data['node_type']}: {data['exception_message']}")
                elif kind == "execution_interrupted":
                    raise RuntimeError("cancelled")
                elif kind == "executing" and data["node"] is None:
                    break  # done, and its files are known
            else:
                raise RuntimeError("the server closed the connection")
        async with session.get(f"/history/{number}") as answer:
            outputs = (await answer.json())[number]["outputs"]
        files = [file for node in outputs.values() for file in node.get("images", ()) if file["type"] == "output"]
        return [await fetch(session, file, folder) for file in files]


async def fetch(session: aiohttp.ClientSession, file: dict[str, str], folder: Path) -> Path:
    path = folder / file["subfolder"] / file["filename"]  # of each video of pictures, a folder of its own
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RuntimeError(f"the server names a file outside of the folder: {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    async with session.get("/view", params=file) as answer:
        answer.raise_for_status()
        path.write_bytes(await answer.read())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", type=Path, help="a file of this folder")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--folder", type=Path, default=Path("."), help="where the video goes (default: here)")
    options = parser.parse_args()
    graph = json.loads(options.workflow.read_text(encoding="utf-8"))
    graph = changed(graph, prompt=options.prompt, seed=options.seed)
    for path in asyncio.run(run(options.server, graph, options.folder)):
        print(path)


if __name__ == "__main__":
    main()
