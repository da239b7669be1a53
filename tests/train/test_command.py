"""`python -m mochi train-lora`, as a person runs it: killed, interrupted, over two processes, with bad input."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mochi.cli.main import main
from tests.train.helpers import difference, write_clips

ROOT = Path(__file__).parents[2]
SHORT = ["--rank", "2", "--lr", "1e-2", "--dropout", "0.1", "--ema", "0.9", "--warmup", "2", "--samples", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The LoRA of a run that nothing interrupts."""
    output = tmp_path_factory.mktemp("whole") / "whole.safetensors"
    done = finished(start(data, output, "--steps", "24", "--every", "4"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(output)
    return output, done.stderr


def start(data: Path, output: Path, *more: str, before: tuple[str, ...] = ("-m", "mochi")) -> subprocess.Popen:
    given = ["--data", str(data), "--output", str(output), "--device", "cpu", *SHORT, *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *before, "train-lora", *given], cwd=ROOT, env=env, **pipes)


def finished(process: subprocess.Popen) -> subprocess.CompletedProcess:
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def steps_of(output: Path) -> list[int]:
    """That the log tells of."""
    path = output.with_suffix(".training") / "log.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}") and '"loss"' in line]


def wait_for(output: Path, step: int, process: subprocess.Popen) -> None:
    while not steps_of(output) or steps_of(output)[-1] < step:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def test_what_is_said(whole):
    _, said = whole
    assert "3 clips to train on, 0 held out" in said and "step 24 of 24: loss 0." in said
    assert "\r" not in said, "there are bars though nobody sees them"


def test_a_killed_run_goes_on_as_if_nothing_had_happened(whole, data, tmp_path):
    """At a random step, and once more later."""
    output = tmp_path / "killed.safetensors"
    steps = sorted(random.sample(range(1, 20), 2))
    print("killed behind steps", steps)
    for step in steps:
        process = start(data, output, "--steps", "24", "--every", "4")
        wait_for(output, step, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not output.exists()
    assert finished(start(data, output, "--steps", "24", "--every", "4")).returncode == 0
    assert steps_of(output) == list(range(1, 25))
    assert difference(output, whole[0]) <= 1e-6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves(data, tmp_path, number):
    output = tmp_path / "interrupted.safetensors"
    process = start(data, output, "--steps", "100000")
    wait_for(output, 3, process)
    process.send_signal(number)
    done = finished(process)
    last = steps_of(output)[-1]
    assert done.returncode == 130 and f"cancelled after step {last} of 100000; the same again goes on" in done.stderr
    assert (output.with_suffix(".training") / "checkpoint.safetensors").is_file()
    more = finished(start(data, output, "--steps", str(last + 2), "--warmup", "2"))
    assert more.returncode == 0 and f"going on from step {last}" in more.stderr


@pytest.mark.parametrize(
    ("way", "alike"),
    [
        # Clips of their own: what one process trains with twice the batches of a step.
        ((), ("--accumulate", "2")),
        # The same clips, of which each has some tokens, and a part of the weights.
        (("--ulysses", "2", "--weights", "sharded"), ()),
    ],
)
def test_two_processes_train_one_lora(data, tmp_path, way, alike):
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "mochi")
    common = ("--steps", "3", "--dropout", "0", "--ema", "0", "--lr", "1e-3", "--recompute", "blocks")
    sample = ("--samples", "1", "--sample-steps", "2", "--sample-frames", "13")
    two = finished(start(data, tmp_path / "two.safetensors", *common, *sample, *way, before=torchrun))
    assert two.returncode == 0, two.stderr
    one = finished(start(data, tmp_path / "one.safetensors", *common, *alike))
    assert one.returncode == 0, one.stderr
    # Adam divides gradients by their size, and so makes much of their last digits.
    assert difference(tmp_path / "two.safetensors", tmp_path / "one.safetensors") < 1e-4
    assert two.stderr.count("clips to train on") == 1
    assert (tmp_path / "two.training" / "step-000003-1.mp4").stat().st_size > 500


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--size", "100x64"], "100"),
        (["--frames", "24"], "24"),
        (["--rank", "0"], "nothing to train"),
        (["--model-dir", "nowhere"], "nowhere"),
        (["--start", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--ulysses", "2"], "ulysses is 2, but there is 1 process"),
    ],
)
def test_bad_input(data, tmp_path, capsys, more, words):
    given = ["--data", str(data), "--output", str(tmp_path / "a.safetensors"), "--device", "cpu", *SHORT]
    assert main(["train-lora", *given, "--steps", "1", *more]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: ") and words in said


def test_an_empty_folder(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    given = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "a.safetensors"), "--device", "cpu"]
    assert main(["train-lora", *given]) == 2
    assert capsys.readouterr().err.startswith("error: ")
