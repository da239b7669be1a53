"""How long ComfyUI takes to queue a graph, ours beside graphs of its own nodes: `python -m benchmarks.queueing`.

A real server on the CPU, with 3,000 folders in its checkpoints. Ours is workflows/api/tiny_text_to_video.json with a T5
in a GGUF file with a vocabulary, as the published ones have. The others make such a video by ComfyUI's own nodes, of a
checkpoint or of three files, which are empty: nothing reads them before the graph runs, and then it ends at once. Ours
runs too, but what has run is remembered. All are queued in turns, each when the one before has ended.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
from safetensors.torch import load_file

from benchmarks.host import WORKFLOW
from benchmarks.report import Figures, add_option, report
from mochi.config import TINY_WEIGHTS
from scripts.client import ComfyClient
from scripts.comfyui import find_or_fetch_comfyui, prepare_base
from scripts.server import ComfyServer

FOLDERS, WORDS = 3000, 32128
T5, FILE = "t5_vocabulary.gguf", "empty.safetensors"

Graph = dict[str, dict[str, Any]]


def write_t5(folder: Path, words: int = WORDS) -> None:
    """The built-in T5 as a GGUF file with a vocabulary, and its tokenizer."""
    writer = gguf.GGUFWriter(folder / T5, "t5encoder")
    writer.add_token_list([f"word{i}" for i in range(words)])
    writer.add_token_scores([0.0] * words)
    writer.add_token_types([1] * words)
    for name, weight in load_file(TINY_WEIGHTS / "t5" / "model.safetensors").items():
        writer.add_tensor(name, weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shutil.copy(TINY_WEIGHTS / "t5" / "tokenizer.json", folder)


def write_models(models: Path, folders: int = FOLDERS) -> None:
    """What the graphs name, and many folders."""
    for i in range(folders):
        (models / "checkpoints" / f"a{i // 50}" / f"b{i % 50}").mkdir(parents=True, exist_ok=True)
    for kind in ("checkpoints", "diffusion_models", "text_encoders", "vae"):
        (models / kind).mkdir(parents=True, exist_ok=True)
        (models / kind / FILE).touch()
    write_t5(models / "text_encoders")


def ours() -> Graph:
    """The tiny workflow with the T5 of the file, and as little to compute as can be."""
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in graph.values():
        inputs = node["inputs"]
        inputs.update({"file": T5} if node["class_type"].endswith("LoadT5") else {})
        inputs.update({"steps": 1, "frames": 1} if "steps" in inputs and "frames" in inputs else {})
    return graph


def built_in(model: list, clip: list, vae: list, loaders: Graph) -> Graph:
    """A video by ComfyUI's own nodes, from the sockets of its loaders."""
    sampling = {"seed": 1, "steps": 1, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": model, "positive": ["5", 0], "negative": ["6", 0], "latent_image": ["7", 0]}
    size = {"width": 64, "height": 64, "length": 7, "batch_size": 1}
    saving = {"filename_prefix": "built_in", "fps": 12.0, "lossless": True, "quality": 80, "method": "default"}
    return {
        **loaders,
        "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": "a red circle"}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": ""}},
        "7": {"class_type": "EmptyMochiLatentVideo", "inputs": size},
        "8": {"class_type": "KSampler", "inputs": {**sampling, **links}},
        "9": {"class_type": "VAEDecode", "inputs": {"samples": ["8", 0], "vae": vae}},
        "10": {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["9", 0], **saving}},
    }


def of_checkpoint() -> Graph:
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": FILE}}
    return built_in(["1", 0], ["1", 1], ["1", 2], {"1": loader})


def of_three_files() -> Graph:
    loaders = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": FILE, "weight_dtype": "default"}},
        "2": {"class_type": "CLIPLoader", "inputs": {"clip_name": FILE, "type": "mochi", "device": "default"}},
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": FILE}},
    }
    return built_in(["1", 0], ["2", 0], ["3", 0], loaders)


GRAPHS = {"ours": ours, "ComfyUI's, a checkpoint": of_checkpoint, "ComfyUI's, three files": of_three_files}


def measure(repeats: int) -> Figures:
    """Milliseconds of POST /prompt, the first one of a server and the median of those after it."""
    taken: dict[str, list[float]] = {name: [] for name in GRAPHS}
    with TemporaryDirectory(prefix="mochi-benchmark-") as folder:
        base = prepare_base(Path(folder))
        write_models(base / "models")
        with ComfyServer(find_or_fetch_comfyui(), base, cpu=True) as server:
            client = ComfyClient(server.url)
            listing = [milliseconds(client.object_info)[0] for _ in range(1 + repeats)]
            for _ in range(1 + repeats):
                for name, graph in GRAPHS.items():
                    spent, prompt = milliseconds(lambda graph=graph: client.queue(graph()))
                    taken[name].append(spent)
                    client.wait(prompt)
    taken["GET /object_info"] = listing
    reference = statistics.median(taken["ComfyUI's, a checkpoint"][1:])
    rows = {name: (times[0], statistics.median(times[1:])) for name, times in taken.items()}
    return {name: {"first ms": a, "then ms": b, "ratio": b / reference} for name, (a, b) in rows.items()}


def milliseconds(do: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = do()
    return 1000 * (time.perf_counter() - started), result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    add_option(parser)
    options = parser.parse_args()
    report("benchmarks.queueing", measure(options.repeats), options.json)
