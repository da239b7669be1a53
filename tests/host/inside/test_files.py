"""Files in ComfyUI's folders: how a graph may write their paths, and what is read again when it is queued."""

import asyncio
import os
import shutil
from collections.abc import Callable

import pytest
import torch
from graphs import complaints
from safetensors.torch import load_file, save_file
from server import PromptServer

DIT = {"class_type": "MochiParallelLoadDiT", "inputs": {"file": "", "dtype": "auto"}}


@pytest.fixture(scope="module")
def files(pack):
    return pack.module("nodes.host.files")


@pytest.fixture(scope="module")
def folders(pack):
    return pack.module("nodes.host.folders")


@pytest.fixture
def dit(small, tmp_path):
    """The small network at a path below models/diffusion_models, in a folder of this test."""
    root = small.models / "diffusion_models"

    def put(name: str) -> str:
        path = root / tmp_path.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / small.dit, path)
        return f"{tmp_path.name}/{name}"

    return put


@pytest.mark.parametrize(
    "spell",
    [
        lambda path: path.replace("/", "\\"),
        lambda path: path.replace("/", "\\", 1),
        lambda path: f"./{path}",
        lambda path: f".\\{path}",
        lambda path: path.replace("/", "//"),
        lambda path: path.replace("/", "\\\\"),
        lambda path: path.replace("a b", "./a b"),
        lambda path: path.replace("a b", "x/../a b"),
        lambda path: path.replace("DIT.SAFETENSORS", "dit.safetensors"),
        lambda path: path.replace("/", "\\").replace("a b", "A B"),
    ],
)
def test_spellings_of_a_path(files, dit, spell: Callable[[str], str]):
    """From a machine with other separators, or one that does not tell capitals from small letters."""
    path = dit("a b/DIT.SAFETENSORS")
    assert path in [name.replace(os.sep, "/") for name in files.list_files("dit")]
    assert files.open_file(spell(path), "dit") is files.open_file(path, "dit")
    assert files.check_file(spell(path), "dit") is None


@pytest.fixture(scope="module")
def shared(small) -> dict[str, str]:
    """Names in subfolders, by the node that reads them: a Hugging Face folder, a file, an adapter."""
    torch.manual_seed(1)
    rows, columns = small.network.get_submodule("blocks.0.attn.proj_x").weight.shape
    pair = {"lora_A": torch.randn(2, columns), "lora_B": torch.randn(rows, 2)}
    models = small.models
    for folder in ("vae/shared", "loras/shared/style"):
        (models / folder).mkdir(parents=True)
    shutil.copytree(models / "text_encoders" / small.t5, models / "text_encoders" / "shared" / "encoders" / "t5")
    shutil.copy(models / "vae" / small.vae, models / "vae" / "shared" / "vae.sft")
    weights = {f"diffusion_model.blocks.0.attn.proj_x.{name}.weight": factor for name, factor in pair.items()}
    save_file(weights, models / "loras" / "shared" / "style" / "ADAPTER.SAFETENSORS")
    return {
        "MochiParallelLoadT5": "shared/encoders/t5/",
        "MochiParallelLoadVAE": "shared/vae.sft",
        "MochiParallelLoadLoRA": "shared/style/ADAPTER.SAFETENSORS",
    }


@pytest.mark.parametrize("spell", [lambda p: p, lambda p: p.replace("/", "\\"), lambda p: "./" + p.replace("/", "//")])
@pytest.mark.parametrize("node", ["MochiParallelLoadT5", "MochiParallelLoadVAE", "MochiParallelLoadLoRA"])
def test_every_loader_takes_them(pack, small, shared, node, spell):
    name, loader = shared[node], pack.nodes[node]
    entries = next(iter(loader.INPUT_TYPES()["required"]["file"][1:]))["options"]
    assert name in [entry.replace(os.sep, "/") for entry in entries]
    assert loader.validate_inputs(file=spell(name)) is True
    if node == "MochiParallelLoadVAE":
        assert loader.validate_inputs(file=small.decoder, encoder_file=spell(name)) is True


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "..\\outside.safetensors",
        "sub/../../outside.safetensors",
        "{models}/outside.safetensors",
        "C:\\models\\outside.safetensors",
        "\\\\server\\models\\outside.safetensors",
        "../diffusion_models/small_dit.safetensors",
        "",
        ".",
        "./",
        "../",
        "..\\",
        "nul\0",
    ],
)
def test_paths_that_leave_the_folder(files, small, name):
    shutil.copy(small.models / "diffusion_models" / small.dit, small.models / "outside.safetensors")
    with pytest.raises(ValueError, match="There is no"):
        files.check_file(name.format(models=small.models), "dit")


def test_the_same_letters_may_stand_for_two_files(files, dit):
    """Then the exact name counts, and no other."""
    first, second = dit("DIT.safetensors"), dit("dit.safetensors")
    if len({file.casefold() for file in (first, second)} & set(map(str.casefold, files.list_files("dit")))) != 1:
        pytest.skip("this disk does not tell capitals from small letters")
    assert files.open_file(first, "dit") is not files.open_file(second, "dit")
    with pytest.raises(ValueError, match="There is no"):
        files.open_file(dit("Dit.safetensors").replace("Dit", "dIT"), "dit")


def test_a_backslash_in_a_name_of_this_machine(files, dit):
    if os.sep == "\\":
        pytest.skip("it separates here")
    name = dit("odd\\name.safetensors")
    assert files.check_file(name, "dit") is None


def test_a_prompt_is_queued_without_a_look_at_folders(files, folders, dit, monkeypatch):
    """The lists of files are looked at again afterwards, as is a file of other capitals that came since."""
    looks, look = [], folders._has_changed
    monkeypatch.setattr(folders, "_has_changed", lambda found: looks.append(found) or look(found))

    async def queued() -> None:
        dit("first.safetensors")
        assert files.list_files("dit") and looks
        await asyncio.sleep(0)
        looks.clear()
        name = dit("since.safetensors")
        PromptServer.instance.trigger_on_prompt({"prompt": {}})
        assert name not in files.list_files("dit") and not looks
        assert files.check_file(name, "dit") is None and not looks
        assert files.check_file(name.replace("since", "SINCE"), "dit") is None and looks
        await asyncio.sleep(0)
        assert name in [entry.replace(os.sep, "/") for entry in files.list_files("dit")]

    asyncio.run(queued())


def queue(name: str) -> dict[str, str]:
    saver = {"class_type": "ModelSave", "inputs": {"model": ["1", 0], "filename_prefix": "x"}}
    return complaints({"1": {**DIT, "inputs": {**DIT["inputs"], "file": name}}, "2": saver})


@pytest.mark.parametrize("whole", [True, False])
def test_a_check_is_remembered_until_the_file_changes(pack, files, dit, small, monkeypatch, whole):
    """Failures, too: a file that is refused is not read each time."""
    name = dit("dit.safetensors")
    path = small.models / "diffusion_models" / name
    weights = load_file(path)
    if not whole:
        del weights["blocks.1.attn.proj_x.weight"]
        save_file(weights, path)
    read, reads = pack.module("mochi.checkpoint.checkpoint").read, []
    monkeypatch.setattr(
        pack.module("mochi.checkpoint.checkpoint"), "read", lambda path: (reads.append(path), read(path))[1]
    )
    assert (queue(name) == {}) == whole
    queue(name)
    assert len(reads) == 1
    files._opened.cache_clear()  # as if other files had been opened since
    queue(name)
    assert len(reads) == 1
    state = path.stat()
    first = "blocks.0.attn.qkv_x.weight"
    data = path.read_bytes().replace(first.encode(), first.replace("qkv_x", "qkv_z").encode())
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    assert path.stat().st_size == state.st_size
    assert first in queue(name)["1"]
    assert len(reads) == 2


def test_a_vocabulary_is_passed_over(pack, tmp_path):
    """Lists in a GGUF file of any length and kind: what comes behind them is still read."""
    import gguf
    import numpy as np

    path = tmp_path / "lists.gguf"
    writer = gguf.GGUFWriter(path, "t5encoder")
    writer.add_token_list([f"word{i}ü" * (i % 3) for i in range(40000)])
    writer.add_array("seventeen", [1.5] * 17)
    writer.add_array("flags", [True] * 300)
    writer.add_string("behind", "is read")
    writer.add_tensor("x", np.arange(6, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = pack.module("mochi.checkpoint").Checkpoint.open(path)
    assert checkpoint.metadata["behind"] == "is read"
    assert checkpoint.tensors["x"].read().tolist() == [0, 1, 2, 3, 4, 5]


def listed(files) -> set[str]:
    return {name.replace(os.sep, "/") for name in files.list_files("dit")}


def test_new_files_are_listed_at_once(files, dit, small):
    first = dit("one.safetensors")
    assert first in listed(files)
    second = dit("deep/er/two.GGUF")
    assert {first, second} <= listed(files)
    folder = dit("whole/transformer/model.safetensors").partition("/")[0]
    (small.models / "diffusion_models" / folder / "whole" / "transformer" / "config.json").write_text("{}")
    assert f"{folder}/whole/" in listed(files)
    shutil.rmtree(small.models / "diffusion_models" / folder / "deep")
    assert first in listed(files) and second not in listed(files)


def test_folders_are_looked_at_once_for_a_prompt(folders, dit, small, monkeypatch):
    """However many schemas the host asks for. A prompt that is queued next looks anew."""
    root, looks = str(small.models / "diffusion_models"), []
    before = dit("before.safetensors")
    monkeypatch.setattr(
        folders.os.path, "getmtime", lambda path, get=os.path.getmtime: (looks.append(str(path)), get(path))[1]
    )

    async def prompt() -> list[str]:
        found = [folders.files_below(root) for _ in range(5)][-1]
        return [name.replace(os.sep, "/") for name in found]

    assert before in asyncio.run(prompt())
    looks.clear()
    asyncio.run(prompt())
    assert looks.count(root) == 1
    after = dit("after.safetensors")
    assert after in asyncio.run(prompt())


def test_a_folder_that_goes_and_comes(folders, tmp_path):
    root = tmp_path / "models"
    assert folders.files_below(str(root)) == []
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.sft").touch()
    assert folders.files_below(str(root)) == [os.path.join("sub", "a.sft")]
    shutil.rmtree(root)
    assert folders.files_below(str(root)) == []
