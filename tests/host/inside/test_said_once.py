"""A complaint about a prompt is said once, and at its widget."""

import asyncio

import execution
import pytest
from graphs import whole


def given_graph():
    """Nodes that give frames, for a whole graph."""
    size = {"vae": ["vae", 0], "width": 64, "height": 64, "frames": 25}
    strengths = {"first_strength": 0.9, "second_strength": 0.7}
    image = {"width": 64, "height": 64, "batch_size": 1, "color": 0}
    joined = {"first": ["image", 0], "second": ["image", 0], "overlap": 7, **size, **strengths}
    return {
        "image": {"class_type": "EmptyImage", "inputs": image},
        "given": {
            "class_type": "MochiParallelImageToVideo",
            "inputs": {"image": ["image", 0], "frame": 0, "strength": 1.0, **size},
        },
        "joined": {"class_type": "MochiParallelTransition", "inputs": joined},
    }


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ("t5", "file", "absent.safetensors"),
        ("dit", "file", "absent.safetensors"),
        ("dit", "gpus", "many"),
        ("vae", "file", "absent.safetensors"),
        ("vae", "encoder_file", "absent.safetensors"),
        ("vae", "encoder_file", "small_decoder.safetensors"),
        ("vae", "gpus", "-1"),
        ("sampler", "width", 100),
        ("sampler", "frames", 24),
        ("sampler", "cfg_schedule", "6, six"),
        ("sampler", "stg_scale", 10.5),
        ("sampler", "stg_layers", "34, x"),
        ("given", "frame", 25),
        ("given", "strength", 1.5),
        ("given", "frames", 24),
        ("joined", "overlap", 13),
        ("joined", "second_strength", -0.5),
        ("save", "format", "avi"),
        ("save", "filename_prefix", "../outside"),
        ("settings", "weights", "halved"),
        ("cache", "end", 1.5),
    ],
)
def test_said_once_and_at_the_widget(pack, small, node, name, value):
    once, changed = pack.module("nodes.host.complaints").once, whole(small, dit__gpus="1", vae__gpus="1")
    settings = {"gpus": "2", "guidance": "auto", "ulysses": 0, "weights": "auto", "timeout": 600.0}
    changed["settings"] = {"class_type": "MochiParallelSettings", "inputs": settings}
    changed["cache"] = {
        "class_type": "MochiParallelTeaCache",
        "inputs": {"model": ["dit", 0], "threshold": 0.1, "start": 0.0, "end": 1.0},
    }
    changed["sampler"]["inputs"] |= {"model": ["cache", 0], "cfg_schedule": "", "stg_scale": 1.0, "stg_layers": "1"}
    if node in ("given", "joined"):
        changed |= given_graph()
        changed["sampler"]["inputs"]["latent"] = [node, 0]
    if node == "settings":
        changed["dit"]["inputs"]["parallel"] = ["settings", 0]
    changed[node]["inputs"][name] = value
    errors = asyncio.run(execution.validate_prompt("id", changed, None))[3]
    once(errors)
    (error,) = errors[node]["errors"]
    assert error["extra_info"]["input_name"] == name and error["details"].startswith(f"{name} - ")


def test_complaints_of_others_stay_as_they_are(pack):
    said = [{"details": f"{name} - no such thing", "extra_info": {"input_name": name}} for name in "ab"]
    errors = {"1": {"errors": [*said, {"details": "", "extra_info": {}}]}}
    pack.module("nodes.host.complaints").once(errors)
    assert len(errors["1"]["errors"]) == 3
