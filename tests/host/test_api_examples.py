"""The example programs beside the graphs in API format, as they are run by people."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

from scripts.comfyui import PROJECT
from tests.host.conftest import Comfy

API = PROJECT / "workflows" / "api"
GRAPH = API / "tiny_text_to_video.json"
PROMPT = "a blue star moves up on a black background"


def program(name: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, API / name, *map(str, arguments)], capture_output=True, text=True, timeout=240
    )


def prompt_in(video: Path) -> dict[str, dict]:
    with av.open(str(video)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 25
        return json.loads(file.metadata["prompt"])


def sampler_of(graph: dict[str, dict]) -> dict:
    return next(node["inputs"] for node in graph.values() if node["class_type"] == "MochiParallelSampler")


def test_one_video(comfy: Comfy, tmp_path: Path):
    done = program(
        "client.py", GRAPH, "--prompt", PROMPT, "--seed", 5, "--server", comfy.server.url, "--folder", tmp_path
    )
    assert done.returncode == 0, done.stderr
    *told, path = done.stdout.splitlines()
    assert "MochiParallelSampler: 16 of 16" in told and any(line.startswith("MochiParallelVAEDecode:") for line in told)
    graph = prompt_in(Path(path))
    assert sampler_of(graph)["seed"] == 5
    assert PROMPT in [node["inputs"].get("prompt") for node in graph.values()]


def test_the_same_seed_is_the_same_video(comfy: Comfy, tmp_path: Path):
    """As lossless pictures: a coder of videos makes much of the last bit."""
    graph = json.loads(GRAPH.read_text(encoding="utf-8"))
    next(node for node in graph.values() if node["class_type"] == "MochiParallelSaveVideo")["inputs"]["format"] = "png"
    workflow = tmp_path / "pictures.json"
    workflow.write_text(json.dumps(graph))
    videos = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        values = ("--prompt", PROMPT, "--seed", 6, "--server", comfy.server.url, "--folder", folder)
        done = program("client.py", workflow, *values)
        assert done.returncode == 0, done.stderr
        comfy.client.free()  # so that nothing of the first run is left
        pictures = sorted(folder.rglob("*.png"))
        assert len(pictures) == 25
        videos.append(np.stack([np.asarray(Image.open(picture)) for picture in pictures]).astype(int))
    # A model that was loaded again lies elsewhere in memory, and a CPU's sums of the same numbers can differ by that.
    assert np.abs(videos[0] - videos[1]).max() <= 1


def test_a_batch_goes_on_behind_a_line_that_fails(comfy: Comfy, tmp_path: Path):
    lines = tmp_path / "prompts.jsonl"
    lines.write_text(
        "\n".join(
            [
                json.dumps({"prompt": PROMPT, "seed": 1}),
                json.dumps({"prompt": PROMPT, "frames": 24}),
                json.dumps({"prompt": PROMPT, "tempo": 3}),
                "",
                json.dumps({"prompt": "a red circle moves left on a black background", "seed": 2, "steps": 8}),
            ]
        )
    )
    done = program("batch.py", GRAPH, lines, "--server", comfy.server.url, "--folder", tmp_path / "videos")
    assert done.returncode == 1
    assert "2 of 4: refused" in done.stderr and "frames is 24" in done.stderr and "has a tempo" in done.stderr
    videos = [Path(line.partition(": ")[2]) for line in done.stdout.splitlines()]
    assert [sampler_of(prompt_in(video))["steps"] for video in videos] == [16, 8]


def test_a_server_that_is_not_there(tmp_path: Path):
    done = program("client.py", GRAPH, "--prompt", PROMPT, "--server", "http://127.0.0.1:9", "--folder", tmp_path)
    assert done.returncode == 1 and "Cannot connect" in done.stderr
