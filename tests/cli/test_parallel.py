"""`python -m mochi generate --gpus 2`: the same video from two ranks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mochi.cli import main as cli

SMALL = ["--width=32", "--height=32", "--frames=7", "--steps=3", "--seed=1"]
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="ranks on the CPU")


def generate(model_dir: Path, *arguments: str) -> int:
    return cli.main(["generate", "a red circle", "--model-dir", str(model_dir), *SMALL, *arguments])


def frames(folder: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file), dtype=int) for file in sorted(Path(folder).glob("*.png"))])


def test_two_ranks_make_the_video_of_one(model_dir, here, capsys):
    assert generate(model_dir, "--output=one.png") == 0
    assert generate(model_dir, "--ranks=2", "--weights=sharded", "--output=two.png") == 0
    one, two = frames("one"), frames("two")
    assert one.shape == two.shape == (7, 32, 32, 3)
    assert np.abs(one - two).max() <= 1  # a float that lies on the border of two grey levels
    record = json.loads(Path("two.json").read_text())["run"]
    assert (record["device"], record["attention"]) == ("cpu, cpu", "sdpa on cpu")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpus=many"], "gpus is 'many'"),
        (["--gpus=3"], "3 ranks cannot be split"),
        (["--gpus=3", "--stg", "--stg-layers=1", "--cfg=4, 1, 4"], "3 ranks cannot be split"),
        (["--gpus=2", "--guidance=2", "--ulysses=2"], "cannot be split"),
        (["--gpus=3", "--guidance=3"], "guidance is 3, but without --stg a step has 2 passes: the nearest is 2"),
        (["--gpus=2", "--device=cpu"], "either --device"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(model_dir, here, capsys, arguments, words):
    assert generate(model_dir, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not list(here.iterdir())
