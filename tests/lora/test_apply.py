"""LoRAs on a model: strengths, several at once, quantised weights, and as patches for ranks."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.errors import CheckpointError, MochiError
from mochi.lora import LoraMount, LoraPatch, apply_patches, as_patches, patchable_shapes, read_lora
from mochi.lora.flat import flatten_patches, restore_patches
from mochi.quant import QUANT_DTYPE, Float8, Ggml, quant_linears
from tests.exact import relative_error
from tests.lora.conftest import predicted, tiny_dit

SHAPES = patchable_shapes(tiny_dit())
WEIGHTS = sorted(name for name, shape in SHAPES.items() if len(shape) == 2)


@pytest.fixture(scope="session")
def loras(trained, train):
    """Two different ones."""
    return read_lora(trained.path), read_lora(train(seed=4, target_modules=["to_q", "to_out.0", "net.0.proj"]).path)


def state(network):
    return {name: p.clone() for name, p in network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(p, other[name]) for name, p in one.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strengths_come_and_go(loras, dtype):
    """Any strength gives the same however it was reached; none, or 0, gives the model back bit for bit."""
    network = tiny_dit().to(dtype)
    mount, pristine = LoraMount(network), state(network)
    mount.use([(loras[0], 0.0)])
    assert equal(state(network), pristine)
    mount.use([(loras[0], 1.0)])
    once = state(network)
    assert not equal(once, pristine) and {p.dtype for p in once.values()} == {dtype}
    mount.use([(loras[1], -0.5), (loras[0], 2.0)])
    assert not equal(state(network), once)
    mount.use([(loras[0], 1.0)])
    assert equal(state(network), once)
    mount.use([(loras[0], 0.0), (loras[1], 0.0)])
    assert equal(state(network), pristine)
    mount.use([])
    assert equal(state(network), pristine)


def test_several_add_up(loras):
    network = tiny_dit()
    pristine = state(network)
    LoraMount(network).use([(loras[0], 0.7), (loras[1], -1.5)])
    both, parts = state(network), []
    for lora, strength in zip(loras, (0.7, -1.5), strict=True):
        network = tiny_dit()
        LoraMount(network).use([(lora, strength)])
        parts.append(state(network))
    for name, p in pristine.items():
        expected = p + sum(part[name] - p for part in parts)
        assert relative_error(both[name], expected) < 1e-6


def test_strength_scales_the_difference(loras):
    plain, out = state(tiny_dit()), []
    for strength in (1.0, 3.0):
        network = tiny_dit()
        LoraMount(network).use([(loras[0], strength)])
        out.append(state(network))
    one, three = ({name: p - plain[name] for name, p in of.items()} for of in out)
    assert all(relative_error(three[name], 3 * p) < 1e-5 for name, p in one.items() if p.abs().max() > 0)


def ggml(weight):
    quantised = quants.quantize(weight.numpy(), GGMLQuantizationType.Q8_0)
    return Ggml("Q8_0"), torch.from_numpy(quantised.view(np.int8))


def float8(weight):
    quant = Float8(torch.float8_e4m3fn)
    return quant, quant.quantize(weight)


@pytest.mark.parametrize("quantised", [ggml, float8])
def test_quantised_weights(loras, quantised):
    """As with the dequantised weights merged, and the quantised ones stay what they are."""
    network = tiny_dit()
    plain = copy.deepcopy(network)
    weights = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and module.in_features % 32 == 0:
            weights[f"{name}.weight"] = quant, values = quantised(module.weight.data)
            plain.get_submodule(name).weight.data = quant.dequantize(values, torch.float32)
    quant_linears(network, {name: quant for name, (quant, _) in weights.items()})
    network.load_state_dict(plain.state_dict() | {name: values for name, (_, values) in weights.items()})
    assert len(weights) > 10 and all(network.get_parameter(name).dtype == QUANT_DTYPE for name in weights)
    before, without = state(network), predicted(network)
    mounts = LoraMount(network), LoraMount(plain)
    for chosen in ([(loras[0], 1.0)], [(loras[0], 0.5), (loras[1], -1.0)]):
        for mount in mounts:
            mount.use(chosen)
        assert relative_error(predicted(network), predicted(plain)) < 1e-5
        assert relative_error(predicted(network), without) > 0.01
        assert all(torch.equal(network.get_parameter(name), before[name]) for name in weights)
    mounts[0].use([(loras[1], 0.0)])
    assert torch.equal(predicted(network), without) and equal(state(network), before)


@given(name=st.sampled_from(WEIGHTS), cuts=st.lists(st.integers(0, 400), max_size=4), strength=st.floats(-3, 3))
@settings(max_examples=60)
def test_row_shards_make_up_the_whole(loras, name, cuts, strength):
    """Each rank patches the rows that it has, after the patches have crossed."""
    patches = as_patches([(loras[0], strength), (loras[1], 1.0)], SHAPES)
    several = restore_patches(flatten_patches(patches)).get(name, [])
    weight = tiny_dit().get_parameter(name).data
    rows = len(weight)
    whole = apply_patches(name, weight, several, weight.shape)
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    shards = [slice(a, b) for a, b in pairwise(edges)]
    parts = [apply_patches(name, weight[shard], several, weight.shape, shard) for shard in shards]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)
    by_hand = weight.flatten(1).double()
    for patch in several:
        up = torch.zeros(rows, patch.up.shape[1]).double()
        up[patch.start : patch.start + len(patch.up)] = patch.up
        by_hand = by_hand + patch.scale * up @ patch.down.double()
    assert relative_error(whole.flatten(1), by_hand) < 1e-6


@pytest.mark.parametrize("start", [-1, 90])
def test_a_part_that_leaves_the_weight(start):
    lora = LoraPatch(torch.ones(8, 2), torch.ones(2, 96), start=start)
    with pytest.raises(MochiError, match="does not fit"):
        apply_patches("name", torch.ones(96, 96), [lora], (96, 96))


def test_a_failure_leaves_the_model_as_it_was(loras):
    network = tiny_dit()
    mount, pristine = LoraMount(network), state(network)
    misfit = read_lora(loras[0].path)
    misfit.shapes["blocks.0.attn.proj_x.weight"] = misfit.shapes["blocks.0.mlp_x.w2.weight"]
    with pytest.raises(CheckpointError, match="other sizes"):
        mount.use([(loras[1], 1.0), (misfit, 1.0)])
    with pytest.raises(MochiError, match="strength is nan"):
        mount.use([(loras[1], float("nan"))])
    assert equal(state(network), pristine)
