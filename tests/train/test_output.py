"""A LoRA file that was written makes, in every program that reads it, what the layers made that were trained."""

import errno
import json
import logging
import resource
from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers import MochiPipeline
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mochi.config import TINY
from mochi.dit import AsymmDiT
from mochi.errors import MochiError
from mochi.lora import LoraMount, read_lora
from mochi.pipeline import GenerateSettings, load_pipeline
from mochi.train.lora import add_lora
from mochi.train.output import check_output, load_start, save_lora
from mochi.train.settings import Rank
from tests.exact import relative_error
from tests.lora.conftest import CONFIG, predicted, tiny_dit
from tests.peers.diffusers import diffusers_dit

SIZES = {
    "as published": (Rank(4, 4.0), Rank(0, 4.0)),
    "attention": (Rank(4, 6.0), Rank(0, 16.0)),
    "both": (Rank(4, 1.0), Rank(3, 7.0)),
    "one rank, two alphas": (Rank(4, 8.0), Rank(4, 2.0)),
    "MLPs": (Rank(0, 16.0), Rank(3, 7.0)),
}
sizes = pytest.mark.parametrize("size", SIZES)
formats = pytest.mark.parametrize("format", ["published", "diffusers"])


def randomised(layers, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        for p in (layer.lora_A, layer.lora_B):
            p.data.normal_(std=0.2, generator=generator)
    return layers


def factors(layers):
    return {name: (layer.lora_A, layer.lora_B) for name, layer in layers.items()}


def trained(size, network=None):
    """A network with LoraLinear layers, as after training, and those layers."""
    network = network or tiny_dit()
    return network.eval(), randomised(add_lora(network, *SIZES[size]))


def written(folder, size, format, **other):
    """A file, and what the network made that it is of."""
    network, layers = trained(size)
    path = folder / "styles" / f"{format}.safetensors"
    save_lora(path, factors(layers), *SIZES[size], format, **other)
    return path, predicted(network)


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@formats
@sizes
def test_the_loader_of_this_project(tmp_path, size, format):
    path, expected = written(tmp_path, size, format)
    network = tiny_dit()
    plain, mount = predicted(network), LoraMount(network)
    mount.use([(read_lora(path), 1.0)])
    assert relative_error(predicted(network), expected) < 1e-5 < 0.05 < relative_error(plain, expected)
    mount.use([(read_lora(path), 0.0)])
    assert torch.equal(predicted(network), plain)


@formats
def test_a_video_of_the_tiny_model(tmp_path, format):
    """The pipeline of the command line, and the layers that were trained in its place."""
    sizes = {"width": 32, "height": 32, "frames": 7, "steps": 2}
    settings = GenerateSettings.of(TINY.defaults, prompt="a red circle", **sizes, seed=1)
    pipelines = [load_pipeline(dtype=torch.float32, device="cpu") for _ in range(2)]
    _, layers = trained("both", pipelines[0].denoiser.dit)
    expected = pipelines[0].denoise(settings)
    save_lora(path := tmp_path / "lora.safetensors", factors(layers), *SIZES["both"], format)
    plain = pipelines[1].denoise(settings)
    pipelines[1].use_loras([(read_lora(path), 1.0)])
    assert relative_error(pipelines[1].denoise(settings), expected) < 1e-5 < 0.05 < relative_error(plain, expected)
    pipelines[1].use_loras([(read_lora(path), 0.0)])
    assert torch.equal(pipelines[1].denoise(settings), plain)


@pytest.mark.parametrize("size", ["as published", "attention"])
def test_the_published_code(tmp_path, size):
    """It adds B @ A * alpha / rank, of its settings by kind of layer, and takes no other settings and layers."""
    path, expected = written(tmp_path, size, "published")
    kwargs, network, left = json.loads(metadata(path)["kwargs"]), tiny_dit(), load_file(path)
    assert kwargs.keys() == {f"{kind}_proj_lora_{what}" for kind in ("qkv", "out") for what in ("rank", "alpha")}
    for name, block in network.named_modules():
        if name.endswith(("attn.qkv_x", "attn.qkv_y", "attn.proj_x", "attn.proj_y")) and block is not None:
            kind = "qkv" if "qkv" in name else "out"
            down, up = left.pop(f"{name}.lora_A"), left.pop(f"{name}.lora_B")
            assert len(down) == kwargs[f"{kind}_proj_lora_rank"]
            block.weight += up @ down * (kwargs[f"{kind}_proj_lora_alpha"] / len(down))
    assert not left and relative_error(predicted(network), expected) < 1e-5


@sizes
def test_diffusers(tmp_path, size, caplog):
    """Its pipeline takes the file without a warning."""
    path, expected = written(tmp_path, size, "diffusers")
    theirs = diffusers_dit(tiny_dit())
    plain = predicted(theirs)
    pipeline = MochiPipeline(None, None, None, None, theirs)
    diffusers.utils.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        pipeline.load_lora_weights(path)
    diffusers.utils.logging.disable_propagation()
    assert relative_error(predicted(theirs), expected) < 1e-5 < 0.05 < relative_error(plain, expected)
    assert not caplog.text
    pipeline.set_adapters(pipeline.get_active_adapters(), 0.0)
    assert relative_error(predicted(theirs), plain) < 1e-6


@formats
def test_who_knows_no_alpha_takes_the_same(tmp_path, format):
    """The file without its settings and alphas, as a program writes it that forgets them."""
    path, expected = written(tmp_path, "both", format)
    bare = {name: t for name, t in load_file(path).items() if "lora_" in name}
    save_file(bare, tmp_path / "bare.safetensors")
    LoraMount(network := tiny_dit()).use([(read_lora(tmp_path / "bare.safetensors"), 1.0)])
    assert relative_error(predicted(network), expected) < 1e-5


@formats
def test_what_the_file_says_of_itself(tmp_path, format):
    path, _ = written(tmp_path, "both", format, metadata={"steps": "2000", "format": "of another kind"})
    said = metadata(path)
    assert said["steps"] == "2000" and said["format"] == "pt"
    assert {t.dtype for t in load_file(path).values()} == {torch.float32}
    half, _ = written(tmp_path, "both", format, dtype=torch.bfloat16)
    assert half == path and {t.dtype for name, t in load_file(half).items() if "lora_" in name} == {torch.bfloat16}


def test_names_that_diffusers_writes(tmp_path):
    """The same names, shapes and settings as its pipeline's own file of the same layers."""
    path, _ = written(tmp_path, "both", "diffusers")
    theirs = diffusers_dit(tiny_dit())
    MochiPipeline(None, None, None, None, theirs).load_lora_weights(path)
    theirs.save_lora_adapter(tmp_path, adapter_name="default_0", weight_name="theirs.safetensors")
    found, right = load_file(path), load_file(tmp_path / "theirs.safetensors")
    assert found.keys() == {f"transformer.{name}" for name in right}
    assert all(torch.equal(found[f"transformer.{name}"], t) for name, t in right.items())
    ours, peft = (
        json.loads(metadata(file)["lora_adapter_metadata"]) for file in (path, tmp_path / "theirs.safetensors")
    )
    assert all(peft[name.removeprefix("transformer.")] == value for name, value in ours.items() if "target" not in name)


# A LoRA that begins as a file


@formats
@sizes
def test_a_lora_begins_as_it_was_written(tmp_path, size, format):
    _, layers = trained(size)
    save_lora(path := tmp_path / "lora.safetensors", factors(layers), *SIZES[size], format)
    other = randomised(add_lora(tiny_dit(), *SIZES[size]), seed=1)
    load_start(path, other)
    for name, layer in layers.items():
        assert torch.equal(other[name].lora_A, layer.lora_A)
        assert relative_error(other[name].lora_B, layer.lora_B) < 1e-6


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(1, 5))
def test_the_scale_goes_into_b(tmp_path_factory, before, after, rank):
    """What is added to the weight stays, whatever alpha was and is."""
    path = tmp_path_factory.mktemp("scale") / "lora.safetensors"
    sizes = [(Rank(rank, alpha), Rank(rank, 2 * alpha)) for alpha in (before, after)]
    one, other = (randomised(add_lora(AsymmDiT(CONFIG), *size)) for size in sizes)
    save_lora(path, factors(one), *sizes[0], "diffusers")
    load_start(path, other)
    for name, layer in one.items():
        found, right = (one.lora_B @ one.lora_A * one.scale for one in (other[name], layer))
        assert relative_error(found, right) < 1e-6


def test_a_published_file_becomes_one_of_diffusers(tmp_path):
    path, expected = written(tmp_path, "both", "published")
    load_start(path, layers := add_lora(tiny_dit(), *SIZES["both"]))
    save_lora(tmp_path / "theirs.safetensors", factors(layers), *SIZES["both"], "diffusers")
    theirs = diffusers_dit(tiny_dit())
    MochiPipeline(None, None, None, None, theirs).load_lora_weights(tmp_path / "theirs.safetensors")
    assert relative_error(predicted(theirs), expected) < 1e-5


def test_a_lora_of_peft_on_q_k_and_v_apart(tmp_path):
    """Three A's of rank 2 are one of rank 6. A layer of one part has the rank that was trained."""
    theirs = diffusers_dit(tiny_dit())
    targets = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "add_q_proj", "add_k_proj", "add_v_proj"]
    pattern = {"to_out.0": 6, "to_add_out": 6}
    config = LoraConfig(r=2, lora_alpha=3, rank_pattern=pattern, target_modules=[*targets, *pattern])
    theirs.add_adapter(config)
    for name, p in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(p, std=0.15)
    theirs.save_lora_adapter(tmp_path, weight_name="lora.safetensors")
    network = tiny_dit()
    load_start(tmp_path / "lora.safetensors", add_lora(network, Rank(6, 4.0), Rank(0, 1.0)))
    assert relative_error(predicted(network.eval()), predicted(theirs.eval())) < 1e-5


def complaint(path, layers):
    """What `load_start` says; nothing has changed."""
    before = {name: (layer.lora_A.clone(), layer.lora_B.clone()) for name, layer in layers.items()}
    with pytest.raises(MochiError) as caught:
        load_start(path, layers)
    for name, (down, up) in before.items():
        assert torch.equal(layers[name].lora_A, down) and torch.equal(layers[name].lora_B, up)
    assert str(path) in str(caught.value)
    return str(caught.value)


@formats
def test_a_file_of_other_layers_or_ranks(tmp_path, format):
    path, _ = written(tmp_path, "both", format)

    def layers(attention, mlp):
        return add_lora(tiny_dit(), Rank(attention, 1.0), Rank(mlp, 1.0))

    assert "blocks.0.mlp_x.w1" in (text := complaint(path, layers(4, 0))) and "not trained here" in text
    text = complaint(path, layers(4, 2))
    assert "blocks.0.mlp_x.w1 has the rank 3, but 2 is to be trained; set the rank to 3" in text
    path, _ = written(tmp_path, "attention", format)
    assert "has no LoRA for blocks.0.mlp_x.w1" in complaint(path, layers(4, 3))
    state = load_file(path)
    dropped = {name: t for name, t in state.items() if "blocks.1" not in name}
    save_file(dropped, part := tmp_path / "part.safetensors")
    assert "has no LoRA for blocks.1.attn.proj_x" in complaint(part, layers(4, 0))
    wide = add_lora(AsymmDiT(replace(CONFIG, hidden_y=64)), *SIZES["attention"])
    assert "a model of other sizes" in (text := complaint(path, wide)) and "blocks.0.attn.proj_y.weight" in text


@pytest.mark.parametrize("what", ["DoRA", "differences", "bias"])
def test_a_file_that_is_no_lora_of_two_factors(tmp_path, what):
    path, _ = written(tmp_path, "attention", "published")
    name = "blocks.0.attn.proj_x"
    state = load_file(path)
    if what == "DoRA":
        state[f"{name}.dora_scale"] = torch.ones(96, 1)
    elif what == "bias":
        state[f"{name}.diff_b"] = torch.ones(96)
    else:
        del state[f"{name}.lora_A"], state[f"{name}.lora_B"]
        state[f"{name}.diff"] = torch.ones(96, 96)
    save_file(state, path, metadata(path))
    assert name in complaint(path, add_lora(tiny_dit(), *SIZES["attention"]))


# Places that cannot be written to


def test_a_file_in_the_way(tmp_path):
    _, layers = trained("attention")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a file")
    for path in (tmp_path / "folder", tmp_path / "file" / "lora.safetensors"):
        with pytest.raises(MochiError, match=str(path)):
            check_output(path)
        with pytest.raises(MochiError, match=str(path)):
            save_lora(path, factors(layers), *SIZES["attention"])
    check_output(tmp_path / "new" / "lora.safetensors")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "file", tmp_path / "folder"]


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """What was there is there still, and nothing else."""
    _, layers = trained("attention")
    save_lora(path := tmp_path / "lora.safetensors", factors(layers), *SIZES["attention"])
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # the system refuses the rest of any file
    try:
        with pytest.raises(MochiError, match=r"lora\.safetensors: the LoRA could not be written: File too large"):
            save_lora(path, factors(randomised(layers, 1)), *SIZES["attention"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(MochiError, match="the disk is full"):
        save_lora(path, factors(layers), *SIZES["attention"])
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before
