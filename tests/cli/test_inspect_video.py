"""`python -m mochi inspect` of videos: what they are, how they were made, and who vouches for it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mochi.batch.job import Job
from mochi.batch.record import Recipe, fingerprint, write_record
from mochi.batch.requests import Made
from mochi.cli import main as cli
from mochi.config import TINY
from mochi.settings import GenerateSettings
from mochi.video import FORMATS, VideoWriter

PROMPT = json.loads(Path("workflows/api/tiny_text_to_video.json").read_text(encoding="utf-8"))
WORKFLOW = json.loads(Path("workflows/tiny_text_to_video.json").read_text(encoding="utf-8"))
GRAPH = {"prompt": json.dumps(PROMPT), "workflow": json.dumps(WORKFLOW)}
FRAMES = np.random.default_rng(0).integers(0, 255, (7, 48, 64, 3), np.uint8)
SETTINGS = GenerateSettings.of(TINY.defaults, prompt="a red circle", negative="blue", seed=5, frames=7)

Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture) -> Inspect:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["inspect", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def write(path: Path, metadata: dict[str, str] | None = None, seal=None) -> Path:
    with VideoWriter(path, 25, (64, 48), metadata=metadata, seal=seal) as writer:
        writer.write(FRAMES)
    return writer.path


def with_record(path: Path) -> Path:
    write(path)
    job = Job(SETTINGS, path)
    write_record(job, Recipe("tiny", "frames"), Made({"seconds": 1.5, **fingerprint(job.video)}))
    return job.video


@pytest.mark.parametrize("format", FORMATS)
def test_what_it_is(format: str, inspect: Inspect, tmp_path: Path) -> None:
    video = write(tmp_path / f"clip.{format}")
    if video.is_file():
        video = video.rename(tmp_path / "clip.safetensors")  # a name says nothing
    code, out, err = inspect(video)
    assert code == 0 and not err
    rate = "" if format == "png" else ", 25 frames a second, 0.28 s"
    assert f" {format}, 64 x 48 pixels, 7 frames{rate}\n" in out
    assert "settings: neither a record beside it nor a workflow in it" in out
    assert ("no credentials, which this format cannot hold" if format == "webm" else "no credentials\n") in out
    found = json.loads(inspect("--json", video)[1])
    expected = {"format": format, "width": 64, "height": 48, "frames": 7, "fps": None if format == "png" else 25}
    assert found.items() >= expected.items() and found["bytes"] == fingerprint(video)["nbytes"]
    assert found["record"] is found["workflow"] is found["credentials"] is found["credentials_unknown"] is None


@pytest.mark.parametrize("format", FORMATS)
def test_the_record_beside_it(format: str, inspect: Inspect, tmp_path: Path) -> None:
    video = with_record(tmp_path / f"clip.{format}")
    _, out, _ = inspect(video)
    assert "settings, in clip.json beside it, the record of this very file:" in out
    assert "prompt: a red circle\n" in out and "negative: blue\n" in out
    assert "seed 5, steps 16, cfg 4.0" in out and "model tiny, variant frames" in out
    record = json.loads(inspect("--json", video)[1])["record"]
    assert record["of_this_file"] is True and record["settings"]["seed"] == 5

    first = video / "frame_00001.png" if video.is_dir() else video
    first.write_bytes(first.read_bytes() + b" ")
    assert "BUT OF ANOTHER FILE" in inspect(video)[1]
    assert json.loads(inspect("--json", video)[1])["record"]["of_this_file"] is False


def test_other_json_beside_it_is_no_record(inspect: Inspect, tmp_path: Path) -> None:
    video = with_record(tmp_path / "clip.mp4")
    record = json.loads((tmp_path / "clip.json").read_text())
    del record["run"]["sha256"]
    (tmp_path / "clip.json").write_text(json.dumps(record))
    assert "which does not say of which file it is" in inspect(video)[1]
    for text in ("[1]", "{", '{"prompt": 1, "run": 2}', '{"name": "x"}', "null", "[" * 100_000):
        (tmp_path / "clip.json").write_text(text)
        assert json.loads(inspect("--json", video)[1])["record"] is None


@pytest.mark.parametrize("format", FORMATS)
def test_the_workflow_in_it(format: str, inspect: Inspect, tmp_path: Path) -> None:
    video = write(tmp_path / f"clip.{format}", GRAPH)
    _, out, _ = inspect(video)
    assert f"workflow of ComfyUI in it: {len(PROMPT)} nodes (MochiParallelLoadDiT, " in out
    assert "6 MochiParallelSampler: seed 1, steps 16, cfg 4.0, width 64, height 64, frames 25" in out
    assert "4 MochiParallelTextEncode: prompt 'a red circle moves left on a black background'" in out
    graph = json.loads(inspect("--json", video)[1])["workflow"]
    assert sum(graph["nodes"].values()) == len(PROMPT) and graph["nodes"]["MochiParallelTextEncode"] == 2
    assert graph["settings"]["6 MochiParallelSampler"]["seed"] == 1

    drawn = write(tmp_path / f"drawn.{format}", {"workflow": GRAPH["workflow"]})
    graph = json.loads(inspect("--json", drawn)[1])["workflow"]
    assert sum(graph["nodes"].values()) == len(WORKFLOW["nodes"]) and not graph["settings"]


def test_what_others_wrote_cannot_move_the_cursor(inspect: Inspect, tmp_path: Path) -> None:
    node = {"class_type": "\x1b[2JA", "inputs": {"text": "\x1b[31m" + "x" * 5000, "seed": [1, 0], "steps": 3}}
    odd = {"prompt": json.dumps({"1": node, "2": "no node", "3": {"class_type": 1}}), "workflow": "[]"}
    _, out, _ = inspect(write(tmp_path / "clip.mp4", odd))
    assert "1 node (" in out and "\x1b" not in out and "x" * 500 not in out and "seed" not in out
    for bad in ({"prompt": "[]", "workflow": '{"nodes": 1}'}, {"prompt": "{", "workflow": '{"nodes": [1]}'}):
        code, out, _ = inspect(write(tmp_path / "clip.mp4", bad))
        assert code == 0 and "nor a workflow" in out


def test_one_picture(inspect: Inspect, tmp_path: Path) -> None:
    folder = write(tmp_path / "clip.png", GRAPH)
    assert "png, 64 x 48 pixels, 1 frame\n" in inspect(folder / "frame_00002.png")[1]
    Image.new("RGBA", (3, 2)).save(tmp_path / "other.png")
    assert "png, 3 x 2 pixels, 1 frame\n" in inspect(tmp_path / "other.png")[1]


@pytest.mark.parametrize("format", FORMATS)
def test_damaged(format: str, inspect: Inspect, tmp_path: Path) -> None:
    video = write(tmp_path / f"clip.{format}")
    first = video / "frame_00001.png" if video.is_dir() else video
    first.write_bytes(first.read_bytes()[:25])
    code, out, err = inspect(video)
    assert code == 2 and not out and f"a {format} that is cut short or corrupt" in err


def test_credentials(inspect: Inspect, tmp_path: Path) -> None:
    pytest.importorskip("c2pa")
    from mochi.provenance import Signer
    from tests.certificates import identity

    video = write(tmp_path / "clip.mp4", GRAPH, Signer(identity(tmp_path)).seal({"prompt": "a red circle", "seed": 5}))
    _, out, _ = inspect(video)
    assert "credentials: signed by Jo Maker (Studio of Jo Maker), whom no trust list here vouches for; the file" in out
    assert "they say: trained algorithmic media, made with mochi-parallel " in out and "by their own word" in out
    assert "prompt: a red circle\n" in out.partition("credentials: ")[2] and "seed 5" in out
    found = json.loads(inspect("--json", video)[1])["credentials"]
    assert found["matches"] is True and found["settings"]["seed"] == 5 and found["trusted"] is False
    assert found["source_types"] == ["trainedAlgorithmicMedia"]

    data = bytearray(video.read_bytes())
    data[-10] ^= 1
    video.write_bytes(data)
    _, out, _ = inspect(video)
    assert "credentials of Jo Maker (Studio of Jo Maker), WHICH DO NOT MATCH: changed after signing" in out
    assert json.loads(inspect("--json", video)[1])["credentials"]["matches"] is False


def test_without_the_library(inspect: Inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    video = with_record(tmp_path / "clip.mp4")
    code, out, _ = inspect(video)
    assert code == 0 and "prompt: a red circle" in out
    assert "credentials: not looked for. Content credentials need c2pa-python" in out and "pip install" in out
    found = json.loads(inspect("--json", video)[1])
    assert found["credentials"] is None and "pip install" in found["credentials_unknown"]


def test_folders_of_frames_with_other_things_in_them(inspect: Inspect, tmp_path: Path) -> None:
    folder = write(tmp_path / "clip.png")
    (folder / "a.png").write_bytes(b"no picture")
    code, out, _ = inspect(folder)
    assert code == 0 and "png, 64 x 48 pixels, 7 frames" in out
    (folder / "more").mkdir()
    code, _, err = inspect(folder)
    assert code == 2 and f"error: {folder}: cannot be read as a whole" in err


def test_a_picture_that_is_too_large(inspect: Inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    code, _, err = inspect(tmp_path / "large.png")
    assert code == 2 and "large.png: Image size (4096 pixels) exceeds limit" in err
