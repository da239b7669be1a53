"""Attention backends and torch.compile of Load AsymmDiT."""

from functools import partial

import comfy.ldm.modules.attention as host
import pytest
import torch


@pytest.fixture(scope="module")
def error(pack):
    return pack.module("mochi.errors").MochiError


@pytest.fixture
def error_of(pack):
    """How far two tensors are apart."""
    return pack.module("tests.exact").relative_error


@pytest.mark.parametrize(
    "function", ["optimized_attention", "attention_pytorch", "attention_sub_quad", "attention_split"]
)
def test_the_hosts_own_attention_gives_the_same(call, small, model, k_sampler, monkeypatch, error_of, function):
    calls, own = [], getattr(host, function)
    monkeypatch.setattr(host, "optimized_attention", lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs))
    (loaded,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto", attention="comfyui")
    assert error_of(k_sampler(loaded), k_sampler(model)) < 1e-5
    assert calls


@pytest.mark.parametrize("name", ["flash2", "flash3", "sage"])
@pytest.mark.parametrize("gpus", ["1", "2"])
def test_what_cannot_be_used_is_refused(call, small, error, name, gpus):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(error, match="choose sdpa"):
        call("MochiParallelLoadDiT", file=small.dit, dtype="auto", attention=name, gpus=gpus)


@pytest.mark.parametrize(("name", "told"), [("sdpa", "sdpa on cpu"), ("comfyui", "attention_pytorch")])
def test_what_computes_it_is_in_the_log(call, small, monkeypatch, caplog, name, told):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(host, "optimized_attention", host.attention_pytorch)
    caplog.set_level("INFO")
    call("MochiParallelLoadDiT", file=small.dit, dtype="auto", attention=name)
    assert f"{small.dit}: attention by {told}" in caplog.messages


def test_an_unknown_name_is_refused(call, small, error):
    with pytest.raises(error, match="must be one of sdpa, flash2, flash3, sage, comfyui"):
        call("MochiParallelLoadDiT", file=small.dit, dtype="auto", attention="xformers")


def test_ranks_take_the_hosts_attention_where_they_know_it(pack, monkeypatch, error):
    of_ranks = pack.module("nodes.host.sockets.attention").attention_of_ranks
    monkeypatch.setattr(host, "optimized_attention", host.attention_pytorch)
    assert of_ranks("comfyui") == "sdpa"
    monkeypatch.setattr(host, "optimized_attention", host.attention_sage)
    assert of_ranks("comfyui") == "sage"
    monkeypatch.setattr(host, "optimized_attention", host.attention_split)
    with pytest.raises(error, match="attention_split"):
        of_ranks("comfyui")


def test_compiled_blocks_give_the_same(pack, call, small, model, k_sampler, monkeypatch, error_of):
    module = pack.module("mochi.dit.compiled")
    monkeypatch.setattr(module, "CompiledBlocks", partial(module.CompiledBlocks, "aot_eager"))
    (loaded,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto", compile=True)
    assert error_of(k_sampler(loaded), k_sampler(model)) < 1e-5
    network = loaded.model.diffusion_model
    assert network.call.works

    # As where memory is short: weights come to the device when a layer runs.
    for layer in network.modules():
        if hasattr(layer, "comfy_cast_weights"):
            layer.comfy_cast_weights = True
    assert error_of(k_sampler(loaded), k_sampler(model)) < 1e-5


def test_compiled_blocks_take_quantised_weights(pack, call, small, k_sampler, monkeypatch, error_of):
    module = pack.module("mochi.dit.compiled")
    monkeypatch.setattr(module, "CompiledBlocks", partial(module.CompiledBlocks, "eager"))
    plain, compiled = (
        call("MochiParallelLoadDiT", file=small.dit, dtype="float8_e4m3fn", compile=compile)[0]
        for compile in (False, True)
    )
    assert error_of(k_sampler(compiled), k_sampler(plain)) < 1e-5
