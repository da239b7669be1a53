"""`python -m mochi generate "a prompt"`: the video, its record, errors and interruption."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest

from mochi import pipeline
from mochi.cli import main as cli
from mochi.config import TINY, TINY_WEIGHTS


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_video_and_record(run, here: Path, model_dir: Path) -> None:
    options = ["--seed=5", "--cfg=4, 2, 1", "--negative=blue", "--output=out/clip.mp4", "--fps=8"]
    code, out, err = run("a red circle", *options)
    assert (code, out.strip()) == (0, "out/clip.mp4") and "3/3" in err
    assert names(here / "out") == ["clip.json", "clip.mp4"]
    with av.open("out/clip.mp4") as video:
        assert len(list(video.decode(video=0))) == 7
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (32, 32, 8)
    record = json.loads(Path("out/clip.json").read_text())
    run_record = record.pop("run")
    assert record == {
        "prompt": "a red circle",
        "negative": "blue",
        "seed": 5,
        "steps": 3,
        "cfg": [4, 2, 1],
        "width": 32,
        "height": 32,
        "frames": 7,
        "fps": 8,
        "threshold_noise": 0.025,
        "linear_steps": None,
        "teacache": 0.0,
        "stg": 0.0,
        "stg_layers": [34],
        "stg_rescale": 0.0,
        "images": [],
        "output": "out/clip.mp4",
    }
    assert run_record["model"] == str(model_dir) and run_record["dtype"] == "float32"
    assert run_record["variant"] == "preview" and "variant" not in err
    assert run_record["attention"] == "sdpa on cpu" and "attention: sdpa on cpu" in err


def test_seed_is_drawn_and_recorded(run, here: Path) -> None:
    assert run("red", "--output=a.png")[0] == run("red", "--output=b.png")[0] == 0
    first, second = (json.loads(Path(f"{name}.json").read_text()) for name in "ab")
    assert first["seed"] != second["seed"]
    assert run("red", f"--seed={first['seed']}", "--output=c.png")[0] == 0
    assert names(here / "a") == [f"frame_{i:05}.png" for i in range(1, 8)]
    frames = {name: (here / name / "frame_00007.png").read_bytes() for name in "abc"}
    assert frames["a"] == frames["c"] != frames["b"]


@pytest.mark.parametrize("suffix", ["webm", "gif"])
def test_suffix_picks_the_format(run, here: Path, suffix: str) -> None:
    assert run("red", f"--output=clip.{suffix}")[0] == 0
    with av.open(f"clip.{suffix}") as video:
        assert suffix in video.format.name


def test_default_name_holds_the_seed(run, here: Path) -> None:
    assert run("red", "--seed=7")[0] == 0
    assert names(here) == ["mochi_7.json", "mochi_7.mp4"]


BAD = {
    "frames is 8.*nearest is 7": ["red", "--frames=8"],
    "width is 30.*nearest is 32": ["red", "--width=30"],
    "height is 0.*nearest is 16": ["red", "--height=0"],
    "cfg lists 2 values.*3 steps": ["red", "--cfg=4,5"],
    "cfg is 'six'": ["red", "--cfg=six"],
    "cfg is 'nan'": ["red", "--cfg=nan"],
    "steps is 0": ["red", "--steps=0", "--cfg=1"],
    "fps is 0": ["red", "--fps=0"],
    "threshold_noise is 2": ["red", "--threshold-noise=2"],
    "linear_steps is 4": ["red", "--linear-steps=4"],
    "seed is -1": ["red", "--seed=-1"],
    "quality is 101": ["red", "--quality=101"],
    "must end in": ["red", "--output=clip.avi"],
    "256 bytes long, and 255 are the most": ["red", f"--output={'n' * 252}.mp4"],
    "path is .* bytes long": ["red", f"--output={'/'.join(['d' * 200] * 21)}.mp4"],
    "has .* no file name can hold": ["red", "--output=a\ud83d.mp4"],
    "fps is 60, but gif": ["red", "--output=clip.gif", "--fps=60"],
    "width is 16400, but a side of a mp4": ["red", "--width=16400"],
    "prompt has .* half of a character": ["red \udce9"],
    "negative has .* half of a character": ["red", "--negative=\ud83d"],
    "stg_layers has 2, but the blocks of this model are 0 to 1: the nearest is 1": ["red", "--stg", "--stg-layers=0,2"],
    "stg_layers has 34": ["red", "--stg=0.5"],
    "stg_layers is 'last'": ["red", "--stg", "--stg-layers=last"],
    "stg_layers says how .* add --stg": ["red", "--stg-layers=1"],
    "stg_rescale says how": ["red", "--stg-rescale=1"],
    "stg_rescale is 2.0": ["red", "--stg", "--stg-layers=1", "--stg-rescale=2"],
    "stg is -1.0": ["red", "--stg=-1"],
    "stg is nan": ["red", "--stg=nan"],
    "either a prompt or --jsonl": ["red", "--jsonl=list.jsonl"],
    "the prompt is there twice": ["red", "--prompt=red"],
    "either --output, .* or --folder": ["red", "--output=a.mp4", "--folder=out"],
    "absent.safetensors: ": ["red", "--t5=absent.safetensors"],
    "device 'cuda:99' cannot be used": ["red", "--device=cuda:99"],
    "no such model directory": ["red", "--model-dir=absent"],
    "no dit.safetensors": ["red", "--model-dir=."],
    "absent.jsonl: cannot be read": ["--jsonl=absent.jsonl"],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_options_end_before_anything_is_loaded(
    run, here: Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "load_pipeline", lambda *_: pytest.fail("weights were read"))
    code, out, err = run(*BAD[message])
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not names(here)


def test_a_prompt_is_no_scale(run, here: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        run("--stg", "red")
    assert "'red' is no number; write the prompt first, or --stg=1" in capsys.readouterr().err


def test_skip_layer_guidance(run, here: Path) -> None:
    assert run("red", "--seed=1", "--output=plain.png")[0] == 0
    assert run("red", "--seed=1", "--stg", "--stg-layers=1, 0", "--stg-rescale=0.5", "--output=stg.png")[0] == 0
    record = json.loads(Path("stg.json").read_text())
    assert (record["stg"], record["stg_layers"], record["stg_rescale"]) == (1.0, [0, 1], 0.5)
    plain, stg = (here / name / "frame_00007.png" for name in ("plain", "stg"))
    assert plain.read_bytes() != stg.read_bytes()


@pytest.mark.parametrize("stage", ["denoise", "decode"])
def test_interrupted_run_leaves_nothing(run, here: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.Pipeline, stage, interrupted)
    code, out, err = run("red", "--output=clip.mp4")
    assert code == 130 and not out and "cancelled" in err
    assert not names(here)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c(here: Path, model_dir: Path) -> None:
    """A real process, interrupted while it samples."""
    options = [f"--model-dir={model_dir}", "--steps=100000", "--width=32", "--height=32", "--frames=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mochi", "generate", "red", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )
    seen = ""
    while "step/s" not in seen:
        seen += (more := process.stderr.read(1))
        assert more, seen
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert not names(here)


def test_incomplete_model_directory(run, here: Path, model_dir: Path) -> None:
    code, _, err = run("red", f"--model-dir={model_dir / 't5'}")
    assert code == 2 and "no dit.safetensors" in err
    for name in ("dit.safetensors", "decoder.safetensors"):
        (here / name).symlink_to(model_dir / name)
    code, _, err = run("red", f"--model-dir={here}")
    assert code == 2 and "no T5 in it" in err
    (here / "t5").symlink_to(model_dir / "t5")
    assert run("red", f"--model-dir={here}")[0] == 0


@pytest.mark.skipif(not (TINY_WEIGHTS / "dit.safetensors").exists(), reason="the tiny model is not trained yet")
def test_tiny_model_by_default(here: Path) -> None:
    prompt = "a red circle moves left on a black background"
    assert cli.main(["generate", prompt, "--output=clip.mp4", "--steps=4"]) == 0
    with av.open("clip.mp4") as video:
        assert len(list(video.decode(video=0))) == TINY.defaults.frames
    assert json.loads(Path("clip.json").read_text())["run"]["model"] == "tiny"
