"""What is computed again rather than kept: the same gradients, and less memory."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.live import LiveBytes
from mochi.checkpoint import load_dit
from mochi.config import DiTConfig
from mochi.dit import AsymmDiT
from mochi.quant import Float8, QuantLinear, quant_linears
from mochi.train.settings import RECOMPUTE
from tests.checkpoint import toys, writers
from tests.exact import assert_close
from tests.random_weights import randomised
from tests.train.learning import assert_alike, clips, learn, loss, with_lora

CONFIG = DiTConfig(depth=3, num_heads=4, hidden_x=96, hidden_y=48, mlp_x=256, mlp_y=128, text_width=64, text_length=32)
AGAIN = ["blocks", "all but attention"]
FORMATS = {**writers.GGUFS, **writers.WIDE_GGUFS, **writers.FLOAT8S}


@pytest.mark.parametrize("recompute", AGAIN)
@pytest.mark.parametrize("levels", [False, True], ids=["one level", "a level for each frame"])
@pytest.mark.parametrize("lengths", [[20], [20, 7], [13, 0]], ids=str)
def test_recomputed_blocks_have_the_same_gradients(lengths, levels, recompute):
    model = randomised(AsymmDiT(CONFIG))
    layers, batch = with_lora(model), clips(CONFIG, lengths, levels=levels)
    assert_alike(learn(model, layers, batch, recompute), learn(model, layers, batch), within=1e-6)


@pytest.mark.parametrize("recompute", AGAIN)
def test_dropout_leaves_out_the_same_when_it_is_recomputed(recompute):
    model = randomised(AsymmDiT(CONFIG)).train()
    layers, batch = with_lora(model, dropout=0.3), clips(CONFIG, [20, 7])
    found = []
    for way, seed in ((recompute, 3), ("nothing", 3), ("nothing", 4)):
        torch.manual_seed(seed)
        found.append(learn(model, layers, batch, way))
    assert_alike(found[0], found[1], within=1e-6)
    with pytest.raises(AssertionError, match="relative error"):
        assert_alike(found[2], found[1], within=0.01)


class Calls(TorchDispatchMode):
    """Counts how often torch's attention is computed."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        return operation(*args, **(kwargs or {}))


def test_attention_is_computed_once_where_it_is_kept():
    def calls(recompute):
        model = randomised(AsymmDiT(CONFIG))
        layers, batch = with_lora(model), clips(CONFIG, [20])
        with Calls() as attention:
            learn(model, layers, batch, recompute)
        return attention.count - 1  # that of the caption

    assert [calls(recompute) for recompute in RECOMPUTE] == [6, 3, 3]


def test_less_is_kept_the_more_is_recomputed():
    """The inputs of each block: visual and text tokens. Then the output of attention and a number a head and token."""
    batch, sizes = clips(CONFIG, [20]), {}
    for recompute in RECOMPUTE:
        model = randomised(AsymmDiT(CONFIG))
        with_lora(model)
        with LiveBytes(model.parameters()) as live:
            out = loss(model, batch, recompute)
        sizes[recompute] = live.now
    del out
    visual, text = 3 * 4 * 5, 20
    attention = 4 * CONFIG.depth * (visual + text) * (CONFIG.hidden_x + CONFIG.num_heads)
    assert sizes["all but attention"] - sizes["blocks"] == attention
    inputs = 4 * CONFIG.depth * (visual * CONFIG.hidden_x + text * CONFIG.hidden_y)
    assert inputs < sizes["blocks"] < inputs + 400_000
    assert sizes["all but attention"] < 0.3 * sizes["nothing"]


@pytest.mark.parametrize("quant", FORMATS)
def test_quantised_weights_have_the_gradients_of_the_dequantised(quant, tmp_path):
    config = toys.WIDE if quant in writers.WIDE_GGUFS else toys.DIT
    file, batch = FORMATS[quant](tmp_path, toys.dit(config).state_dict()), clips(config, [16, 5], size=(2, 4, 6))
    packed, plain = load_dit(file, compute=torch.float32), load_dit(file, torch.float32)
    assert any(isinstance(module, QuantLinear) for module in packed.modules())
    assert_alike(learn(packed, with_lora(packed), batch, "blocks"), learn(plain, with_lora(plain), batch), within=1e-6)


def quantised() -> AsymmDiT:
    model = randomised(AsymmDiT(CONFIG))
    weights = {
        name: value for name, value in model.state_dict().items() if name.endswith(".weight") and value.ndim == 2
    }
    form = Float8(torch.float8_e4m3fn)
    quant_linears(model, dict.fromkeys(weights, form))
    model.load_state_dict({name: form.quantize(value) for name, value in weights.items()}, strict=False)
    return model.requires_grad_(False)


def test_dequantised_weights_are_not_kept_for_the_gradients():
    """As much is kept as with weights that are there anyway, and the backward pass has one of them at a time."""
    batch = clips(CONFIG, [20])

    def kept(model):
        with_lora(model)
        with LiveBytes(model.parameters()) as live:
            out = loss(model, batch)
            after = live.now
            live.peak = 0
            out.backward()
        return after, live.peak

    (plain, plain_peak), (packed, packed_peak) = kept(randomised(AsymmDiT(CONFIG))), kept(quantised())
    largest = 4 * 3 * CONFIG.hidden_x * CONFIG.mlp_x
    assert packed <= plain + 1000
    assert packed_peak <= plain_peak + largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_quantised_layer_that_is_patched_or_computes_in_another_dtype(dtype):
    """As hosts have them. A patch that is itself learnt has gradients too."""
    layer = QuantLinear(32, 8, True, Float8(torch.float8_e4m3fn))
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(8, 32, generator=generator), torch.randn(8, generator=generator)
    layer.load_state_dict({"weight": layer.quant.quantize(weight), "bias": bias})
    weight = layer.quant.dequantize(layer.weight, torch.float32)
    x, change = (torch.randn(shape, generator=generator).requires_grad_() for shape in ((3, 5, 32), (8, 32)))
    given = x.to(dtype)
    layer.compute = torch.float32
    for patch in (lambda w: w, lambda w: 2 * w, lambda w: w + change):
        layer.patch = patch
        found = torch.autograd.grad(layer(given).square().sum(), (x, change), allow_unused=True)
        product = F.linear(given.float(), patch(weight), bias)
        right = torch.autograd.grad(product.square().sum(), (x, change), allow_unused=True)
        assert found[0].equal(right[0])
        assert (found[1] is None) == (right[1] is None)
    assert_close(found[1], right[1])


def test_a_quantised_layer_does_not_hold_its_weight():
    layer = next(module for module in quantised().modules() if isinstance(module, QuantLinear))
    seen = []

    def patch(weight):
        seen.append(weakref.ref(weight))
        return weight

    layer.patch = patch
    out = layer(torch.randn(3, layer.in_features, requires_grad=True))
    assert seen[0]() is None
    out.sum().backward()
    assert len(seen) == 2
