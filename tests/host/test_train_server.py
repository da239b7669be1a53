"""Mochi Train LoRA in a running ComfyUI: shown while it runs, cancelled, gone on with, and listed by LoRA loaders."""

import json
import re
from pathlib import Path

import pytest

from scripts.client import PromptFailed, PromptRejected, Result
from tests.host.conftest import Comfy
from tests.train.toy_trainer import write_clips

TINY = "tiny (built in)"
WIDGETS = {"dit": TINY, "t5": TINY, "vae": TINY, "encoder_file": "in the file itself", "steps": 8, "batch": 1}
WIDGETS |= {"learning_rate": 1e-3, "rank": 4, "alpha": 4.0, "frames": 7, "width": 32, "height": 32, "seed": 1}
WIDGETS |= {"sample_every": 4, "sample_prompts": "a red circle", "restart": False}
WIDGETS |= {"data": "train/clips", "name": "server/cross"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def train(comfy: Comfy):
    """Runs the node, and what shows its report."""
    write_clips(comfy.base / "input" / "train" / "clips", "a red circle moves left", "a blue star moves up")

    def run(on_event=None, **widgets) -> Result:
        inputs = {**WIDGETS, **widgets}
        prompt = {
            "1": {"class_type": "MochiParallelTrainLoRA", "inputs": inputs},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 2]}},
        }
        return comfy.client.run(prompt, on_event, timeout=300)

    return run


def report_of(result: Result) -> str:
    return result.history["outputs"]["2"]["text"][0]


def test_it_is_cancelled_goes_on_and_is_listed(comfy: Comfy, train):
    shown: list[dict] = []
    steps: list[int] = []

    def hear(kind, data):
        if kind == "executed" and data["node"] == "1":
            shown.append(data["output"])
        if kind == "progress" and data["node"] == "1":
            steps.append(data["value"])
            if data["value"] == 2:
                comfy.client.interrupt()

    with pytest.raises(PromptFailed) as failure:
        train(hear)
    assert failure.value.interrupted and 2 <= steps[-1] < 8
    assert not (comfy.models / "loras" / "server" / "cross.safetensors").exists()

    shown.clear()
    done = len(steps)
    result = train(hear)
    assert steps[done] >= steps[done - 1] and steps[-1] == 8
    assert "going on from step" in report_of(result) and "step 8 of 8" in report_of(result)
    assert len(shown) >= 2 and len(shown[0]["images"]) == 1, "the curve, and then clips"
    files = result.history["outputs"]["1"]["images"]
    assert [Path(file["filename"]).suffix for file in files] == [".png", ".webp"]
    for file in files:
        assert len(comfy.client.view(file["filename"], file["subfolder"], file["type"])) > 100
    run = comfy.output / "lora_training" / "server" / "cross.training"
    losses = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in losses if "loss" in line] == [*range(1, 9)]
    for node, widget in (("MochiParallelLoadLoRA", "file"), ("LoraLoaderModelOnly", "lora_name")):
        kind, *options = comfy.client.object_info(node)[node]["input"]["required"][widget]
        listed = options[0]["options"] if kind == "COMBO" else kind
        assert "server/cross.safetensors" in listed and not re.search("checkpoint", " ".join(listed))


@pytest.mark.parametrize(
    ("widget", "value", "words"),
    [
        ("data", "absent", "there is no such folder"),
        ("name", "../away", "leaves ComfyUI's folder of LoRAs"),
        ("frames", 8, "6k"),
        ("height", 40, "must be a multiple of 16"),
    ],
)
def test_what_cannot_be_is_refused_at_its_widget(train, widget, value, words):
    with pytest.raises(PromptRejected, match=words) as refusal:
        train(**{widget: value})
    (of_node,) = refusal.value.details["node_errors"].values()
    assert [error["extra_info"]["input_name"] for error in of_node["errors"]] == [widget]
