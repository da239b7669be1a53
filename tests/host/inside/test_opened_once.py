"""A process opens a weight file once and builds its network once: when queued, loaded, sampled and patched.

A network of two blocks does not count: names and shapes are compared with it first, whatever the model's depth.
"""

import json
import os
from functools import partial
from pathlib import Path

import counting
import gguf
import pytest
import torch
from graphs import complaints
from safetensors.torch import load_file, save_file

ONCE = {"opened": 1, "built": 1}


@pytest.fixture
def dit(request, small, tmp_path) -> Path:
    """A file of the small network that no other test has opened. In a GGUF, its large weights are quantised."""
    source = small.models / "diffusion_models" / small.dit
    path = source.with_name(f"{tmp_path.name}.{request.param}")
    metadata = {"config": counting._safe_open(source, "pt").metadata()["config"]}
    weights = load_file(source)
    if request.param == "safetensors":
        save_file(weights, path, metadata)
        return path
    writer = gguf.GGUFWriter(path, "mochi")
    writer.add_string("config", metadata["config"])
    q8 = gguf.GGMLQuantizationType.Q8_0
    for name, p in weights.items():
        if p.ndim == 2 and p.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(p.numpy(), q8), raw_dtype=q8)
        else:
            writer.add_tensor(name, p.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def count(pack, small, tmp_path, monkeypatch, dit):
    """The counts so far, by process."""
    log = tmp_path / "counts"
    log.touch()
    monkeypatch.setenv(counting.LOG, str(log))
    counting.watch(pack.module("mochi.dit").AsymmDiT, monkeypatch.setattr)
    return lambda: counting.counts(dit, small.network.config.depth)


@pytest.fixture
def queue_and_load(call, dit):
    """Check a loader of this file as it is checked when a prompt is queued, then run it."""
    saver = {"class_type": "ModelSave", "inputs": {"model": ["1", 0], "filename_prefix": "counted"}}

    def run(**links):
        widgets = {"file": dit.name, "dtype": "auto"}
        assert complaints({"1": {"class_type": "MochiParallelLoadDiT", "inputs": widgets}, "2": saver}) == {}
        return call("MochiParallelLoadDiT", **widgets, **links)[0]

    return run


@pytest.fixture
def loras(small):
    """A LoRA; and one of another kind, of which the host makes whole weights for the ranks."""
    torch.manual_seed(5)
    rows, columns = small.network.get_submodule("blocks.0.attn.qkv_x").weight.shape
    stem, folder = "diffusion_model.blocks.0.attn.qkv_x", small.models / "loras"
    lora = {f"{stem}.lora_A.weight": torch.randn(2, columns), f"{stem}.lora_B.weight": torch.randn(rows, 2)}
    files = {
        "counted_lora.safetensors": lora,
        "counted_dora.safetensors": lora | {f"{stem}.dora_scale": torch.ones(rows, 1)},
    }
    folder.mkdir(exist_ok=True)
    for name, weights in files.items():
        save_file(weights, folder / name)
    return list(files)


@pytest.mark.parametrize("dit", ["safetensors", "gguf"], indirect=True)
def test_in_one_process(count, queue_and_load, call, k_sampler, loras):
    model = queue_and_load()
    k_sampler(model)
    assert count() == {os.getpid(): ONCE}
    for name in loras:
        k_sampler(call("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=0.7)[0])
        assert count() == {os.getpid(): ONCE}
    k_sampler(call("MochiParallelLoadLoRA", model=model, file=loras[0], strength=0.7)[0])
    assert count() == {os.getpid(): ONCE}


@pytest.mark.parametrize("dit", ["gguf"], indirect=True)
def test_on_ranks(pack, count, queue_and_load, call, k_sampler, loras, groups, monkeypatch):
    if torch.cuda.device_count() == 1:
        pytest.skip("two ranks need no GPU, or two")
    host, service = pack.module("nodes.host.ranks.group"), (counting.__file__, "counting_rank")
    monkeypatch.setattr(host, "HostManager", partial(host.HostManager, service=service))
    widgets = {"gpus": "2", "guidance": "auto", "ulysses": 0, "weights": "auto"}
    (settings,) = call(
        "MochiParallelSettings", **widgets, timeout=543.0
    )  # no other model's: it gets a group of its own
    model = queue_and_load(parallel=settings)
    k_sampler(model)
    pids = groups.running.use().pids
    everywhere = dict.fromkeys((os.getpid(), *pids), ONCE)
    assert count() == everywhere
    for name in loras:
        k_sampler(call("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=0.7)[0])
        assert groups.running.use().pids == pids and count() == everywhere
    groups.running.close()


@pytest.mark.parametrize("way", ["a part", "the folder"])
def test_again_when_any_file_has_changed(pack, small, tmp_path, way):
    """Another file of a checkpoint in several than the one that was chosen, in a folder of any depth."""
    files, weights = pack.module("nodes.host.files"), load_file(small.models / "diffusion_models" / small.dit)
    folder = small.models / "diffusion_models" / tmp_path.name / "transformer"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    names = [f"dit-0000{part}-of-00002.safetensors" for part in (1, 2)]
    places = {name: names[i % 2] for i, name in enumerate(weights)}
    for name in names:
        save_file({key: p for key, p in weights.items() if places[key] == name}, folder / name)
    (folder / "dit.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    chosen = f"{tmp_path.name}/" if way == "the folder" else f"{tmp_path.name}/transformer/{names[0]}"
    opened = files.open_file(chosen, "dit")
    assert files.open_file(chosen, "dit") is opened
    os.utime(folder / names[1], (1, 1))
    assert files.open_file(chosen, "dit") is not opened
