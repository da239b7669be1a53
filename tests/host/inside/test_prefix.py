"""`%date:...%` and `%Node.widget%` in a name, as the editor fills them in; and names that the system does not take."""

import json
import os
import re
from datetime import datetime

import pytest
import torch
from executor import prepared
from graphs import complaints

NOW = datetime(2026, 3, 7, 9, 5, 4)

PROMPT = {
    "3": {
        "class_type": "MochiParallelSampler",
        "inputs": {"seed": 7, "cfg": 4.0, "denoise": 0.000001, "steps": ["9", 0], "cfg_schedule": None},
        "_meta": {"title": "Mochi Sampler"},
    },
    "4": {
        "class_type": "MochiParallelTextEncode",
        "inputs": {"prompt": 'a/b\\c: "d" <e>|f?*\n\x7f\ud83d'},
        "_meta": {"title": "What"},
    },
    "5": {"class_type": "MochiParallelTextEncode", "inputs": {"prompt": "second", "on": True, "up": ".."}},
    "6:2": {"class_type": "KSampler", "inputs": {"seed": 11}},
    "8": {"class_type": "MochiParallelSaveVideo", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
}
WORKFLOW = {
    "nodes": [
        {
            "id": 5,
            "type": "MochiParallelTextEncode",
            "title": "Below",
            "properties": {"Node name for S&R": "MochiParallelTextEncode"},
        },
        {"id": 4, "type": "MochiParallelTextEncode", "properties": {"Node name for S&R": "Mine"}},
        {"id": 6, "type": "a-subgraph", "properties": {}},
        {"id": 7, "type": "Note", "properties": {}},
    ],
    "definitions": {"subgraphs": [{"id": "a-subgraph", "nodes": [{"id": 2, "type": "KSampler", "title": "Inner"}]}]},
}


@pytest.fixture
def prefix(pack):
    return pack.module("nodes.host.prefix")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("yyyy-MM-dd", "2026-03-07"),
        ("yy/M/d", "26/3/7"),
        ("hh-mm-ss", "09-05-04"),
        ("h:m:s", "9:5:4"),
        ("dd.MM.yyyy", "07.03.2026"),
        ("yyyyMMddhhmmss", "20260307090504"),
        ("yyy y", "yyy y"),
        ("ddd", "077"),
        ("", ""),
    ],
)
def test_dates(prefix, pattern, expected):
    assert prefix.fill(f"a_%date:{pattern}%/b", prefix.widgets_of({}), NOW) == f"a_{expected}/b"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Mochi Sampler.seed", "7"),  # its title
        ("MochiParallelSampler.seed", "7"),  # its type
        ("Mochi Text Encode.prompt", "second"),  # the English name of a type, below titles
        ("MochiParallelSampler.cfg", "4"),
        ("MochiParallelSampler.denoise", "0.000001"),
        ("MochiParallelSampler.cfg_schedule", ""),
        ("What.prompt", "a_b_c_ _d_ _e__f_____"),
        ("Mine.prompt", "a_b_c_ _d_ _e__f_____"),  # its name for search and replace
        ("MochiParallelTextEncode.prompt", "second"),
        ("Below.on", "true"),
        ("Below.up", "__"),
        ("Inner.seed", "11"),
        ("KSampler.seed", "11"),
    ],
)
def test_widgets(prefix, name, expected):
    assert prefix.fill(f"a_%{name}%/b", prefix.widgets_of(PROMPT, WORKFLOW), NOW) == f"a_{expected}/b"


@pytest.mark.parametrize(
    "name",
    [
        "Absent.seed",
        "MochiParallelSampler.absent",
        "MochiParallelSampler.steps",
        "a.b.c",
        "seed",
        "width",
        "MochiParallelSaveVideo.images",
    ],
)
def test_what_is_not_found_stays(prefix, name, caplog):
    assert prefix.fill(f"a_%{name}%/b", prefix.widgets_of(PROMPT, WORKFLOW), NOW) == f"a_%{name}%/b"
    assert bool(caplog.records) == (name.count(".") == 1)


def test_without_an_editor(prefix):
    """Over the API there may be types alone; a title that nobody gave is the node's name in the editor."""
    bare = {number: {key: node[key] for key in ("class_type", "inputs")} for number, node in PROMPT.items()}
    for workflow in (None, [], "text", {"nodes": 3}, {"nodes": [1]}, {"definitions": {"subgraphs": [{}]}}):
        look_up = prefix.widgets_of(bare, workflow)
        assert look_up("Mochi Sampler", "seed") == look_up("MochiParallelSampler", "seed") == "7"
        assert look_up("What", "prompt") is None


def save(pack, filename_prefix, prompt=PROMPT, workflow=WORKFLOW, **values):
    """The path of a saved video, below the output folder."""
    node = prepared(pack.nodes["MochiParallelSaveVideo"], {"PROMPT": prompt, "EXTRA_PNGINFO": {"workflow": workflow}})
    values = {"fps": 12.0, "format": "gif", "quality": 70, **values}
    with torch.inference_mode():
        shown = node.execute(images=torch.zeros(2, 16, 32, 3), filename_prefix=filename_prefix, **values).ui.as_dict()
    file = shown["images"][0]
    assert (pack.base / "output" / file["subfolder"] / file["filename"]).exists()
    return f"{file['subfolder']}/{file['filename']}"


def test_saved_under_that_name(pack):
    today = re.escape(f"{datetime.now():%Y-%m-%d}")
    assert re.fullmatch(rf"{today}/x_00001_\.gif", save(pack, "%date:yyyy-MM-dd%/x"))
    assert save(pack, r"a\%Mochi Sampler.seed%\%width%x%height%") == "a/7/32x16_00001_.gif"
    assert save(pack, "a/7/%width%x%height%") == "a/7/32x16_00002_.gif"
    assert save(pack, "b/%Absent.seed%", format="png").startswith("b/%Absent.seed%_00001_/frame_00001")


@pytest.mark.parametrize("text", ["word " * 200, "字" * 300, "", "..", "\0\ud83d", "a.b."])
def test_a_value_never_loses_the_video(pack, text):
    """What it makes too long is cut, and no name is empty or leaves the folder."""
    prompt = {"1": {"class_type": "MochiParallelTextEncode", "inputs": {"prompt": text}}}
    for filename_prefix in (
        "v/%MochiParallelTextEncode.prompt%",
        "v/%MochiParallelTextEncode.prompt%/x",
        "%MochiParallelTextEncode.prompt%",
    ):
        assert pack.nodes["MochiParallelSaveVideo"].validate_inputs(filename_prefix, "gif", 12.0) is True
        save(pack, filename_prefix, prompt)


def graph(**inputs):
    values = {"images": ["1", 0], "fps": 30.0, "format": "mp4", "quality": 70, "filename_prefix": "a", **inputs}
    frames = {"width": 32, "height": 16, "batch_size": 1, "color": 0}
    return {
        "1": {"class_type": "EmptyImage", "inputs": frames},
        "2": {"class_type": "MochiParallelSaveVideo", "inputs": values},
    }


LONGEST = os.pathconf("/", "PC_NAME_MAX") - len("_00001_.mp4") if hasattr(os, "pathconf") else 244


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"filename_prefix": "a" * (LONGEST + 1)}, "bytes long, and"),
        ({"filename_prefix": "video/" + "é" * (LONGEST // 2 + 1)}, "bytes long, and"),
        ({"filename_prefix": "a" * 300 + "/x"}, "bytes long, and"),
        ({"filename_prefix": "/".join(["d" * 200] * 21)}, "the path is"),
        ({"filename_prefix": "a\0b"}, "no file name can hold"),
        ({"filename_prefix": "a\ud83d/x"}, "half of a character"),
        ({"filename_prefix": "caf\udce9"}, "half of a character"),
        ({"filename_prefix": r"..\x"}, "leaves ComfyUI's output folder"),
        ({"filename_prefix": "video\\"}, "must end in a name"),
        ({"filename_prefix": "video/.."}, "must end in a name"),
        ({"filename_prefix": "a_file/x"}, "is no folder"),
        ({"format": "gif", "fps": 60.0}, "fps is 60, but gif can have 50 at most"),
        ({"fps": 0.0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": 5000.0}, "fps is 5000"),
    ],
)
def test_refused_when_queued(pack, inputs, message):
    (pack.base / "output" / "a_file").write_text("")
    before = sorted(pack.base.joinpath("output").rglob("*"))
    assert message in complaints(graph(**inputs)).get("2", "nothing")
    assert sorted(pack.base.joinpath("output").rglob("*")) == before


LATENT = {"class_type": "EmptyMochiLatentVideo", "inputs": {"width": 32, "height": 16, "length": 7, "batch_size": 1}}


def test_links_that_do_not_fit(pack):
    latents = {**graph(), "1": LATENT}
    assert "images are latents, so a VAE is needed" in complaints(latents)["2"]
    latents["3"] = {
        "class_type": "MochiParallelLoadVAE",
        "inputs": {"encoder_file": "in the file itself", "dtype": "auto"},
    }
    latents["3"]["inputs"] |= {"file": "tiny (built in)", "gpus": "1"}
    latents["2"]["inputs"]["vae"] = ["3", 0]
    assert complaints(latents) == {}
    latents["2"]["inputs"]["vae"] = ["1", 0]
    assert "vae takes VAE, but gets LATENT" in complaints(latents)["2"]
    assert "images takes" in complaints({**graph(images=["3", 0]), "3": latents["3"]})["2"]


def test_a_video_has_its_own_rate(pack):
    video = {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 12.0}}
    assert complaints({**graph(format="gif", fps=60.0, images=["3", 0]), "3": video}) == {}


@pytest.mark.parametrize("format", ["mp4", "png"])
def test_the_longest_name_is_saved(pack, format):
    name = "n" * (LONGEST + (4 if format == "png" else 0))
    assert complaints(graph(filename_prefix=f"long/{name}", format=format)) == {}
    save(pack, f"long/{name}", format=format)


def test_metadata_of_a_broken_prompt(pack):
    broken = {"1": {"class_type": "MochiParallelTextEncode", "inputs": {"prompt": "a \ud83d b\0 \udce9"}}}
    for extra in ({"workflow": {"note": "\ud83d"}, "k\ud83d": 1, "": 2}, [], None):
        node = prepared(pack.nodes["MochiParallelSaveVideo"], {"PROMPT": broken, "EXTRA_PNGINFO": extra})
        values = {"fps": 12.0, "quality": 70, "filename_prefix": "broken/a"}
        for format in ("mp4", "webm", "gif", "png"):
            shown = node.execute(images=torch.zeros(1, 16, 32, 3), format=format, **values).ui.as_dict()
            assert json.dumps(shown)
