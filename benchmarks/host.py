"""The tiny model in a real ComfyUI: how much of a prompt's time, queue to finish, is outside networks, and products.

The workflow is workflows/api/tiny_text_to_video.json, on the CPU. Its sizes, steps and prompts are those of share.py,
whose runs, in this process, say what networks and products take. Both have as many threads, and run in turns.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.report import Figures
from benchmarks.share import PROMPT, Video, in_networks, product_seconds, seconds, shares
from scripts.client import ComfyClient
from scripts.comfyui import PROJECT, find_or_fetch_comfyui, prepare_base
from scripts.server import ComfyServer

WORKFLOW = PROJECT / "workflows" / "api" / "tiny_text_to_video.json"
COLOURS = ("green", "blue", "yellow", "magenta", "cyan")
SHAPES = ("square", "triangle", "star", "circle")


def new_prompt(number: int) -> str:
    """A text of as many words as PROMPT, another one for each of 20 numbers."""
    return f"a {COLOURS[number % 5]} {SHAPES[number // 5 % 4]} moves left on a black background"


def workflow(seed: int, prompt: str) -> dict[str, Any]:
    """The graph, in API format, with another seed and text."""
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in graph.values():
        if node["class_type"] == "MochiParallelSampler":
            node["inputs"]["seed"] = seed
        if node["_meta"]["title"] == "Prompt":
            node["inputs"]["prompt"] = prompt
    return graph


def queue_to_finish(client: ComfyClient, graph: dict[str, Any]) -> float:
    """Seconds from queueing until the host says that it is done; asking it for the files is not counted."""
    finished = [0.0]

    def note(kind: str, data: Any) -> None:
        if kind == "execution_success":
            finished[0] = time.monotonic()

    result = client.run(graph, note)
    return result.seconds - (time.monotonic() - finished[0])


def measure(options: argparse.Namespace) -> Figures:
    """Medians over runs after the first ones: in ComfyUI with the same text and with a new one, and by the core."""
    host = find_or_fetch_comfyui()
    threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    names = ("core", "ComfyUI, same text", "ComfyUI, new text", "networks", "products")
    taken: dict[str, list[float]] = {name: [] for name in names}
    with TemporaryDirectory(prefix="mochi-benchmark-") as folder:
        base, video = prepare_base(Path(folder)), Video(Path(folder))
        with ComfyServer(host, base, cpu=True, environment=threads) as server:
            client, seed = ComfyClient(server.url), 0
            for repeat in range(options.repeats + 1):
                texts = {"ComfyUI, same text": PROMPT, "ComfyUI, new text": new_prompt(repeat)}
                for name, text in texts.items():
                    seed += 1
                    taken[name].append(queue_to_finish(client, workflow(seed, text)))
                with in_networks(video.pipeline) as passes:
                    taken["core"].append(seconds(video.make))
                taken["networks"].append(sum(passes))
                taken["products"].append(product_seconds(video.make))
    medians = {name: statistics.median(runs[1:]) for name, runs in taken.items()}
    networks, products = medians.pop("networks"), medians.pop("products")
    return {
        name: {
            **shares(whole, networks, products),
            "beyond the core s": whole - medians["core"],
            "beyond the core %": 100 * (whole / medians["core"] - 1),
        }
        for name, whole in medians.items()
    }
