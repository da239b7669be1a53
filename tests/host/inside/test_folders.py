"""Folders of Hugging Face among model files: what the loaders list, and that each entry loads."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def folder(small):
    """A function that makes a folder, by its path below models/; what it made is gone afterwards."""
    made = []

    def make(path, config=None):
        made.append(small.models / path)
        made[-1].mkdir(parents=True)
        if config is not None:
            (made[-1] / "config.json").write_text(json.dumps(config))
        return made[-1]

    yield make
    for path in made:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def listed(pack):
    """The entries of a loader's list below a folder."""

    def entries(node, below):
        found = pack.nodes[node].INPUT_TYPES()["required"]["file"][1]["options"]
        return [name for name in found if name.startswith(below)]

    return entries


@pytest.fixture
def dit(small):
    return small.models / "diffusion_models" / small.dit


def loads(pack, call, node, name):
    assert pack.nodes[node].validate_inputs(file=name) is True
    device = {"device": "default"} if node == "MochiParallelLoadT5" else {}
    call(node, file=name, dtype="auto", **device)


def test_several_files_beside_a_config(folder, listed, pack, call, dit):
    """It does not say which of them it means, so the folder is none."""
    mochi = folder("diffusion_models/mochi_folder", {})
    files = ["MOCHI_Q8_0.SAFETENSORS", "mochi_bf16.safetensors", "mochi_fp16.safetensors"]
    for name in files:
        shutil.copy(dit, mochi / name)
    (mochi / "readme.txt").write_text("no weights")
    found = sorted(listed("MochiParallelLoadDiT", "mochi_folder"))
    assert found == [f"mochi_folder/{name}" for name in files]
    for name in found:
        loads(pack, call, "MochiParallelLoadDiT", name)


def test_a_text_encoder_with_another_file(folder, listed, pack, call, small):
    text = folder("text_encoders/t5_folder")
    shutil.copytree(small.models / "text_encoders" / "small_t5", text, dirs_exist_ok=True)
    weights = {n: w.to(torch.float8_e4m3fn) for n, w in load_file(text / "model.safetensors").items()}
    save_file(weights, text / "t5xxl_fp8_e4m3fn.safetensors")
    names = [f"t5_folder/{name}" for name in ("", "model.safetensors", "t5xxl_fp8_e4m3fn.safetensors")]
    assert listed("MochiParallelLoadT5", "t5_folder") == names
    for name in names:
        loads(pack, call, "MochiParallelLoadT5", name)


def test_one_file_beside_a_config(folder, listed, pack, call, dit):
    """With a name that says what it is, it has an entry beside the folder's."""
    shutil.copy(dit, folder("diffusion_models/one_folder", {}) / "mochi_bf16.safetensors")
    assert listed("MochiParallelLoadDiT", "one_folder") == ["one_folder/", "one_folder/mochi_bf16.safetensors"]
    shutil.copy(dit, folder("diffusion_models/model_folder", {}) / "diffusion_pytorch_model.safetensors")
    assert listed("MochiParallelLoadDiT", "model_folder") == ["model_folder/"]
    for name in ("one_folder/", "one_folder/mochi_bf16.safetensors", "model_folder/"):
        loads(pack, call, "MochiParallelLoadDiT", name)


def test_a_config_that_is_not_of_t5(folder, listed, pack, call, small):
    text = folder("text_encoders/other_folder")
    shutil.copytree(small.models / "text_encoders" / "small_t5", text, dirs_exist_ok=True)
    (text / "config.json").write_text("{}")
    assert listed("MochiParallelLoadT5", "other_folder") == ["other_folder/model.safetensors"]
    loads(pack, call, "MochiParallelLoadT5", "other_folder/model.safetensors")


def test_a_whole_model_with_more_files(folder, listed, pack, call, dit):
    """Its parts are in the folder's entry; what lies beside and below them has entries of its own."""
    pipe = folder("diffusion_models/pipe_folder")
    (pipe / "model_index.json").write_text("{}")
    for part in ("transformer", "vae"):
        (pipe / part).mkdir()
        (pipe / part / "config.json").write_text("{}")
        shutil.copy(dit, pipe / part / "diffusion_pytorch_model.safetensors")
    (pipe / "more").mkdir()
    for name in ("mochi_fp8.safetensors", "more/mochi_q8.safetensors"):
        shutil.copy(dit, pipe / name)
    names = ["pipe_folder/", "pipe_folder/mochi_fp8.safetensors", "pipe_folder/more/mochi_q8.safetensors"]
    assert sorted(listed("MochiParallelLoadDiT", "pipe_folder")) == sorted(names)
    for name in names:
        loads(pack, call, "MochiParallelLoadDiT", name)


def test_a_folder_without_weights(folder, listed):
    folder("diffusion_models/empty_folder", {})
    assert listed("MochiParallelLoadDiT", "empty_folder") == []


def test_parts_of_one_model_are_one_entry(folder, listed, dit):
    """Unless the first is not there: then the others are shown, so that choosing one says what is missing."""
    parts = folder("diffusion_models/parts_folder", {})
    for number in (1, 2, 3):
        shutil.copy(dit, parts / f"mochi-0000{number}-of-00003.gguf")
    assert listed("MochiParallelLoadDiT", "parts_folder") == ["parts_folder/", "parts_folder/mochi-00001-of-00003.gguf"]
    (parts / "mochi-00001-of-00003.gguf").unlink()
    shown = [name for name in listed("MochiParallelLoadDiT", "parts_folder") if not name.endswith("/")]
    assert shown == [f"parts_folder/mochi-0000{number}-of-00003.gguf" for number in (2, 3)]


def test_diffusers_has_files_too(folder, listed, pack, call, dit):
    mochi = folder("diffusers/several_folder", {})
    for name in ("mochi_bf16.safetensors", "mochi_fp16.safetensors"):
        shutil.copy(dit, mochi / name)
    names = ["several_folder/mochi_bf16.safetensors", "several_folder/mochi_fp16.safetensors"]
    assert sorted(listed("MochiParallelLoadDiT", "several_folder")) == names
    for name in names:
        loads(pack, call, "MochiParallelLoadDiT", name)
