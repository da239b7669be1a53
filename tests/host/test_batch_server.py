"""Mochi Cluster Batch in a running ComfyUI: many videos by two machines, shown as they come."""

import json
import re
import time
from pathlib import Path

import av
import pytest

from scripts.client import PromptFailed, PromptRejected, Result
from tests.host.test_cluster_server import client, cluster, server, temporary  # noqa: F401  (fixtures)
from tests.raylets import needs_ray

WIDGETS = {
    "model_dir": "",
    "filename_prefix": "video/batch",
    "format": "mp4",
    "seed": -1,
    "steps": 2,
    "cfg": 0.0,
    "width": 32,
    "height": 32,
    "frames": 7,
    "gpus": 1,
    "send_weights": False,
}
LINES = [
    "a red circle",
    "",
    "a blue star",
    '{"prompt": "a green square", "seed": 5, "output": "video/square.webm"}',
    '{"prompt": "a green circle", "output": "video/circle.png"}',
]

pytestmark = [needs_ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def output(server) -> Path:  # noqa: F811
    return server.base / "output"


@pytest.fixture(scope="module")
def batch(client):  # noqa: F811
    """Runs the node, and what shows its outputs. The server finds the cluster by itself."""

    def run(lines: list[str], on_event=None, **widgets) -> Result:
        inputs = {**WIDGETS, "cluster": "auto", "prompts": "\n".join(lines), **widgets}
        prompt = {
            "1": {"class_type": "MochiParallelBatch", "inputs": inputs},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}},
            "3": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        }
        return client.run(prompt, on_event, timeout=300)

    return run


def report_of(result: Result) -> str:
    return result.history["outputs"]["2"]["text"][0]


def frames_of(video: Path) -> int:
    with av.open(str(video)) as opened:
        return sum(1 for _ in opened.decode(video=0))


def test_videos_of_all_lines_come_one_by_one_and_the_next_run_makes_what_is_missing(batch, output):
    shown: list[list[str]] = []

    def hear(kind, data):
        if kind == "executed" and data["node"] == "1":
            shown.append([file["filename"] for file in data["output"]["images"]])

    first = batch(LINES, hear)
    names = ["batch_0001.mp4", "batch_0003.mp4", "square.webm", "frame_00001.png"]  # of a folder its first picture
    videos = [output / "video" / name for name in names[:3]]
    assert [path.name for path in first.paths(output)] == names
    assert [frames_of(video) for video in videos] == [7, 7, 7] and len(list((output / "video/circle").iterdir())) == 7
    assert len(shown) >= 2 and len(shown[0]) < 4 and sorted(shown[-1]) == sorted(names)  # some before the end
    assert sum(map(int, re.findall(r"made (\d+)", report_of(first)))) == 4
    assert json.loads(videos[2].with_suffix(".json").read_text())["seed"] == 5

    times = {video: video.stat().st_mtime_ns for video in videos}
    assert report_of(batch(LINES)).startswith("4 were there already (")
    videos[1].unlink()
    assert "3 were there already" in report_of(batch(LINES))
    assert [video.stat().st_mtime_ns == times[video] for video in videos] == [True, False, True]


def test_both_machines_make_videos(batch):
    lines = [f"a red circle {number}" for number in range(8)]
    report = report_of(batch(lines, filename_prefix="video/many", steps=60))  # longer than one starts after the other
    made = [int(count) for count in re.findall(r"made (\d+)", report)]
    assert len(made) == 2 and sum(made) == 8, report


def test_cancel_ends_all_workers_and_leaves_no_part(batch, client, cluster, output):  # noqa: F811
    def cancel(kind, data):
        if kind == "executed":
            client.interrupt()

    lines = [f'{{"prompt": "video {number}", "steps": {100 if number else 2}}}' for number in range(6)]
    with pytest.raises(PromptFailed) as failure:
        batch(lines, cancel, filename_prefix="cancelled/video")
    assert failure.value.interrupted
    deadline = time.monotonic() + 10
    while (cluster.workers() or cluster.left_over()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not cluster.workers() and not cluster.left_over()
    files = set((output / "cancelled").iterdir())
    whole = [path for path in files if path.suffix == ".mp4" and frames_of(path) == 7]
    assert files == {path for video in whole for path in (video, video.with_suffix(".json"))}
    assert 1 <= len(whole) < len(lines)


def test_a_video_that_cannot_be_made_is_told_after_the_others(batch, output):
    """A folder has the name of its file."""
    (output / "failing" / "video_0002.mp4").mkdir(parents=True)
    with pytest.raises(PromptFailed, match=r"1 video was not made.*\nline 2: ") as failure:
        batch(["one", "two"], filename_prefix="failing/video")
    assert failure.value.details["node_type"] == "MochiParallelBatch"
    assert (output / "failing" / "video_0001.mp4").is_file()


@pytest.mark.parametrize(
    ("widget", "value", "words"),
    [
        ("prompts", "", "prompts is empty"),
        ("prompts", 'a star\n{"prompt": "a star", "steps": 0}', "line 2: .*steps"),
        ("prompts", '{"prompt": "a star"', "line 1: not JSON"),
        ("prompts", '{"prompt": "a star", "output": "../away.mp4"}', "line 1: .*not in ComfyUI's output folder"),
        ("prompts", '{"prompt": "a star", "output": "/tmp/away.mp4"}', "line 1: .*not in ComfyUI's output folder"),
        ("prompts", '{"prompt": "a star", "images": ["../../a.png"]}', "line 1: .*not in ComfyUI's input folder"),
        ("model_dir", "nowhere", "there is no such model directory"),
        ("filename_prefix", "../away", "leaves ComfyUI's output folder"),
        ("cluster", "ray://127.0.0.1:1", "must be auto or HOST:PORT"),
    ],
)
def test_what_cannot_be_is_refused_at_its_widget(batch, widget, value, words):
    with pytest.raises(PromptRejected, match=words) as refusal:
        batch(["a star"], **{widget: value})
    (of_node,) = refusal.value.details["node_errors"].values()
    assert [error["extra_info"]["input_name"] for error in of_node["errors"]] == [widget]
