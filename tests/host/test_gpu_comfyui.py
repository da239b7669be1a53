"""The command that runs ComfyUI with little memory, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(**environment: str) -> tuple[int, dict]:
    command = [sys.executable, "-m", "benchmarks.gpu.comfyui", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_models_in_part_are_right(comfyui_path):
    code, line = run(COMFYUI_PATH=str(comfyui_path))
    assert code == 0 and not any("skipped" in figures for figures in line["found"].values()), line
    assert len(line["found"]) == 4 and all("error" in figures for figures in line["found"].values())
    assert 0.3 < line["found"]["test_decoder"]["loaded"] < 0.6


def test_without_a_comfyui_it_says_so(tmp_path):
    code, line = run(COMFYUI_PATH=str(tmp_path))
    assert code == 0 and "COMFYUI_PATH" in line["skipped"] and line["found"] == {}
