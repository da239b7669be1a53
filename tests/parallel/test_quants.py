"""Quantised weights (GGUF, fp8) in a group: results as on one device, quantised on the ranks too, and patched."""

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mochi.checkpoint import load_dit
from mochi.errors import MochiError
from mochi.lora import LoraPatch, ReplacePatch
from mochi.parallel.settings import SHARDINGS
from tests.exact import relative_error
from tests.parallel.dit_cases import NETWORK, Input, patched_weight, predicted
from tests.parallel.dit_groups import groups_of
from tests.parallel.helpers import ask

denoisers = groups_of(3)
CONFIG = f'{{"num_heads": {NETWORK.config.num_heads}, "caption_heads": {NETWORK.config.caption_heads}}}'


def in_blocks(name: str, p: torch.Tensor) -> bool:
    return p.ndim == 2 and p.shape[1] % 32 == 0 and name != "pos_frequencies"


@pytest.fixture(scope="module", params=["gguf", "gguf_in_safetensors", "scaled_fp8", "fp8_on_loading"])
def quantised(request, tmp_path_factory):
    """A file, and the dtype to load it with."""
    path = tmp_path_factory.mktemp("weights") / request.param
    state = NETWORK.state_dict()
    if request.param == "gguf":
        writer = gguf.GGUFWriter(path, "mochi")
        writer.add_string("config", CONFIG)
        for name, p in state.items():
            kind = gguf.GGMLQuantizationType.Q5_0 if in_blocks(name, p) else gguf.GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quants.quantize(p.numpy(), kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path, None
    tensors = {}
    for name, p in state.items():
        if request.param == "gguf_in_safetensors" and in_blocks(name, p):
            blocks = gguf.quants.quantize(p.numpy(), gguf.GGMLQuantizationType.Q4_0)
            tensors[name.replace(".weight", ".Q4_0_qweight")] = torch.from_numpy(np.ascontiguousarray(blocks))
        elif request.param == "scaled_fp8" and in_blocks(name, p):
            scale = p.abs().max() / 448
            tensors[name] = (p / scale).to(torch.float8_e4m3fn)
            tensors[name.replace(".weight", ".scale_weight")] = scale
        else:
            tensors[name] = p
    save_file(tensors, path, {"config": CONFIG})
    return path, torch.float8_e4m3fn if request.param == "fp8_on_loading" else None


def a_step() -> list[Input]:
    generator = torch.Generator().manual_seed(5)
    passes = []
    for length in (17, 0):
        z, features = torch.randn(1, 12, 2, 4, 6, generator=generator), torch.randn(1, 256, 64, generator=generator)
        passes.append(Input(z, torch.tensor([0.7]), features, torch.arange(256)[None] < length))
    return passes


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_equals_one_device_and_takes_patches(denoisers, quantised, sharding):
    path, dtype = quantised
    alone = load_dit(path, dtype, compute=torch.float32)
    quantised_names = {name for name, p in alone.named_parameters() if p.dtype == torch.int8}
    assert len(quantised_names) > 20

    def assert_same():
        passes = a_step()
        for results, _ in ask(denoisers, "predict", passes=[tuple(p) for p in passes], split=(1, denoisers.size)):
            for ours, expected in zip(results, predicted(alone, passes), strict=True):
                assert relative_error(ours, expected) <= 2e-6

    ask(denoisers, "load", path=path, sharding=sharding, dtype=dtype, compute_dtype=torch.float32)
    assert_same()
    on_ranks = ask(denoisers, "state")[0]
    assert {name for name, p in on_ranks.items() if p.dtype == torch.int8} == quantised_names
    if sharding != "replicated":
        assert sum(ask(denoisers, "bytes")) < denoisers.size * sum(p.nbytes for p in alone.parameters())

    name, plain = "blocks.1.attn.qkv_x.weight", "blocks.0.mod_x.bias"
    rows, columns = NETWORK.get_parameter(name).shape
    generator = torch.Generator().manual_seed(6)
    up, down = 0.1 * torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
    lora = LoraPatch(up, down, 0.5)
    patches = {name: [lora], plain: [ReplacePatch(torch.ones(NETWORK.get_parameter(plain).shape))]}
    before = alone.get_parameter(plain).clone()
    alone.get_submodule("blocks.1.attn.qkv_x").patch = lambda weight: patched_weight(weight, [lora])
    alone.get_parameter(plain).copy_(torch.ones_like(before))
    ask(denoisers, "patch", patches=patches)
    assert_same()

    alone.get_submodule("blocks.1.attn.qkv_x").patch = None
    alone.get_parameter(plain).copy_(before)
    ask(denoisers, "patch", patches={})
    assert_same()


def test_a_patch_that_does_not_fit_is_refused(denoisers, quantised):
    path, dtype = quantised
    ask(denoisers, "load", path=path, sharding="replicated", dtype=dtype, compute_dtype=torch.float32)
    lora = LoraPatch(torch.ones(3, 1), torch.ones(1, 3))
    with pytest.raises(MochiError, match=r"blocks\.1\.attn\.qkv_x\.weight is \[288, 96\]"):
        ask(denoisers, "patch", patches={"blocks.1.attn.qkv_x.weight": [lora]})
