"""An AsymmDiT in every format equals the same network with weights that another library has dequantised."""

import pytest
import torch

from mochi.checkpoint import load_dit
from mochi.dit import formulas
from mochi.quant import QUANT_DTYPE, Float8, QuantLinear, QuantRows, quantize_rows, use_float8_products
from tests.checkpoint import toys, writers
from tests.checkpoint.independent import values
from tests.exact import relative_error
from tests.peers.diffusers import diffusers_dit

QUANTISED = writers.GGUFS | writers.WIDE_GGUFS | writers.QWEIGHTS | writers.FLOAT8S


def config_for(quant: str):
    return toys.WIDE if quant in writers.WIDE_GGUFS else toys.DIT


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each format's file, written when it is first asked for."""
    weights = {config: toys.dit(config).state_dict() for config in (toys.DIT, toys.WIDE)}
    found = {}

    def file(quant):
        if quant not in found:
            folder = tmp_path_factory.mktemp("quant")
            found[quant] = QUANTISED[quant](folder, weights[config_for(quant)])
        return found[quant]

    return file


def expected(quant, path):
    dequantised = {name.removeprefix(writers.PREFIX): value for name, value in values(path).items()}
    return toys.with_weights(config_for(quant), dequantised)


def quant_layers(network):
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantLinear)}


@pytest.mark.parametrize("quant", QUANTISED)
def test_equals_dequantised_by_another_library(quant, files):
    path = files(quant)
    network = load_dit(path, compute=torch.float32)
    assert len(quant_layers(network)) >= 14
    assert toys.output(network).equal(toys.output(expected(quant, path)))


@pytest.mark.parametrize("quant", QUANTISED)
def test_dequantised_while_loading_equals_too(quant, files):
    path = files(quant)
    network, reference = load_dit(path, torch.float32), expected(quant, path)
    assert not quant_layers(network)
    weights = reference.state_dict()
    assert network.state_dict().keys() == weights.keys()
    assert all(value.equal(weights[name]) for name, value in network.state_dict().items())
    assert toys.output(network).equal(toys.output(reference))


@pytest.mark.parametrize("quant", QUANTISED)
def test_quantised_weights_stay_as_small_as_they_are_stored(quant, files):
    network = load_dit(files(quant))
    kind = quant.split()[1]
    values_of_block, bytes_of_block = (1, 1) if quant in writers.FLOAT8S else writers.blocks_of(kind)
    for layer in quant_layers(network).values():
        assert layer.weight.dtype == QUANT_DTYPE and not layer.weight.requires_grad
        assert layer.weight.nbytes == layer.in_features * layer.out_features // values_of_block * bytes_of_block
    others = {name: p.dtype for name, p in network.named_parameters() if p.dtype != QUANT_DTYPE}
    assert others.pop("pos_frequencies") == torch.float32
    assert set(others.values()) == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_gguf_without_quantisation_loses_nothing(kind, tmp_path):
    original = toys.rounded(toys.rounded(toys.dit(), torch.bfloat16), torch.float16)
    path = writers.gguf(tmp_path, original.state_dict(), kind)
    network = load_dit(path, torch.float32)
    assert all(value.equal(original.state_dict()[name]) for name, value in network.state_dict().items())
    assert not quant_layers(load_dit(path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shard_size", ["10GB", "200KB"])
def test_diffusers_loses_nothing(dtype, shard_size, tmp_path):
    original = toys.rounded(toys.dit(toys.DIFFUSERS_DIT), dtype)
    diffusers_dit(original).to(dtype).save_pretrained(tmp_path, max_shard_size=shard_size)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (shard_size == "200KB")
    weights = original.state_dict()
    for path in (tmp_path, *files[:2], *tmp_path.glob("*.index.json")):
        network = load_dit(path)
        assert network.blocks[0].mod_x.weight.dtype == dtype
        assert network.state_dict().keys() == weights.keys()
        assert all(value.float().equal(weights[name]) for name, value in network.state_dict().items())
    assert toys.output(load_dit(tmp_path, torch.float32)).equal(toys.output(original))


def test_tensors_that_were_reshaped_to_have_whole_blocks(tmp_path):
    """As converters do where a row is no whole number of blocks."""
    weights = toys.dit().state_dict()
    name = "x_embedder.proj.weight"
    path = writers.gguf(tmp_path, weights | {name: weights[name].reshape(-1, 256)}, "Q8_0", {name: weights[name].shape})
    network = load_dit(path, torch.float32)
    assert network.state_dict()[name].equal(values(path)[name])
    assert toys.output(network).equal(toys.output(toys.with_weights(toys.DIT, values(path))))


@pytest.mark.parametrize("input_scale", [False, True])
def test_fast_products_are_near(input_scale, files):
    """Activations are rounded to float8 too: about 2.5 % of each value."""
    network = load_dit(files("old scaled"), compute=torch.float32)
    layer = network.blocks[0].mlp_x.w1
    x = torch.randn(3, 5, layer.in_features, generator=torch.Generator().manual_seed(0))
    exact = layer(x)
    scale = x.abs().max().item() / 448 if input_scale else None
    fast = Float8(layer.quant.dtype, layer.quant.scale, scale, fast=True)
    found = fast.matmul(x, layer.weight, layer.bias)
    assert found is not None and found.dtype == x.dtype and found.shape == exact.shape
    assert 0 < relative_error(found, exact) < 0.04


def fast_layer(files):
    """A layer whose products are in float8, and rows in bfloat16 of which some values stand out."""
    network = load_dit(files("old scaled"), compute=torch.bfloat16)
    layer = network.blocks[0].mlp_x.w1
    use_float8_products(network)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 150, layer.in_features, generator=generator)
    return layer, (x * torch.randn(x.shape, generator=generator) ** 4).bfloat16()


@torch.no_grad()
def test_rows_with_scales_of_their_own_are_no_further_off_than_with_one(files):
    layer, x = fast_layer(files)
    exact = x.float() @ layer.quant.dequantize(layer.weight, torch.float32).T
    one = Float8(layer.quant.dtype, layer.quant.scale, x.abs().max().item() / 448, fast=True)
    by_row, by_one = layer(x), one.matmul(x, layer.weight, layer.bias)
    assert 0 < relative_error(by_row, exact) < relative_error(by_one, exact)


@torch.no_grad()
@pytest.mark.parametrize("bias", [None, torch.bfloat16, torch.float32], ids=str)
def test_rows_that_are_quantised_already(bias, files):
    layer, x = fast_layer(files)
    if bias is not None:
        layer.bias = torch.nn.Parameter(torch.randn(layer.out_features, dtype=bias), requires_grad=False)
    assert layer.takes_rows(x) and not layer.takes_rows(x.float())
    rows = QuantRows(*quantize_rows(x))
    assert layer(rows).equal(layer(x))
    assert layer(QuantRows(rows.values[:0], rows.scales[:0])).shape == (0, *layer(x).shape[1:])


@torch.no_grad()
@pytest.mark.parametrize("sigma", [(0.3, 0.9), ((0.3, 0.9), (1.0, 0.0))], ids=["one level", "levels of frames"])
def test_norms_and_gates_hand_quantised_rows_on(files, monkeypatch, sigma):
    """That changes nothing, but that nobody reads activations only to quantize them."""
    network = load_dit(files("old scaled"), compute=torch.bfloat16)
    use_float8_products(network)
    taken = set()
    for name, layer in quant_layers(network).items():
        layer.register_forward_pre_hook(
            lambda _, args, name=name: taken.add(name) if isinstance(args[0], QuantRows) else None
        )
    found = toys.output(network, torch.bfloat16, sigma=sigma)
    names = {"attn.qkv_x", "attn.qkv_y", "mlp_x.w1", "mlp_x.w2"}
    assert {f"blocks.{i}.{name}" for i in range(len(network.blocks)) for name in names} <= taken
    monkeypatch.setattr(formulas, "takes_rows", lambda *_: False)
    taken.clear()
    assert toys.output(network, torch.bfloat16, sigma=sigma).equal(found) and not taken


def test_layers_that_take_no_quantised_rows(files):
    layer, x = fast_layer(files)
    layer.patch = lambda weight: weight
    assert not layer.takes_rows(x)
    layer.patch, layer.quant = None, Float8(layer.quant.dtype, layer.quant.scale, input_scale=0.5, fast=True)
    assert not layer.takes_rows(x)
    layer.quant = Float8(layer.quant.dtype, layer.quant.scale)
    assert not layer.takes_rows(x)


def test_what_is_learnt_has_exact_gradients(files):
    """As of the dequantised weight: products of quantised numbers have none."""
    layer, x = fast_layer(files)
    x = x.requires_grad_()
    weight = layer.quant.dequantize(layer.weight, torch.bfloat16)
    assert not layer.takes_rows(x)
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.equal(torch.ones_like(x[..., :1]).expand(*x.shape[:-1], len(weight)) @ weight)


def test_rounding_to_float8_while_loading(tmp_path):
    """What a scaled file stores, from one in full precision."""
    weights = toys.dit().state_dict()
    path = toys.save(tmp_path / "dit.safetensors", weights)
    network = load_dit(path, torch.float8_e4m3fn, compute=torch.float32)
    layers = quant_layers(network)
    assert layers
    for name in layers:
        stored, scale = writers.float8_and_scale(weights[f"{name}.weight"])
        weights[f"{name}.weight"] = stored.float() * scale
    assert toys.output(network).equal(toys.output(toys.with_weights(toys.DIT, weights)))
