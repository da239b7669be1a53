"""DoRA, biases of LoRAs and whole differences do to the model what they did when they were trained."""

import pytest
import torch
from torch.nn.functional import normalize

from mochi.lora import LoraMount, read_lora
from mochi.quant import Float8, quant_linears
from tests.exact import relative_error
from tests.lora.conftest import predicted, tiny_dit

GENERATOR = torch.Generator().manual_seed(5)
WITH_BIAS = ["to_out.0", "norm1.linear", "norm_out.linear", "caption_proj", "patch_embed.proj"]


def random(*shape):
    return torch.randn(shape, generator=GENERATOR) * 0.2


def mounted(path, strength=1.0):
    network = tiny_dit()
    LoraMount(network).use([(read_lora(path), strength)])
    return network


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"use_dora": True, "use_rslora": True}, {"lora_bias": True, "target_modules": WITH_BIAS}],
)
def test_of_peft(train, settings):
    made = train(**settings)
    assert relative_error(predicted(mounted(made.path)), made.out) < 1e-5


DORA = {"blocks.0.attn.proj_x": "blocks.0.attn.proj_x", "blocks.1.mlp_x.w1": "transformer_blocks.1.ff.net.0.proj"}
DORA["x_embedder.proj"] = "lora_unet_x_embedder_proj"


@pytest.mark.parametrize("strength", [1.0, 0.4, -0.5])
@pytest.mark.parametrize("layer", DORA)
def test_dora_by_columns(saved, layer, strength):
    """As LyCORIS trains it by default: magnitudes of the columns, or of a convolution's input channels."""
    before = tiny_dit().get_submodule(layer).weight
    rows, columns = before.flatten(1).shape
    up, down, magnitude = (
        random(rows, 3),
        random(3, columns),
        random(1, before.shape[1], *[1] * (before.ndim - 2)).abs(),
    )
    whole = before + (2 / 3 * up @ down).view(before.shape)
    trained = magnitude * normalize(whole.transpose(0, 1).flatten(1)).view_as(whole.transpose(0, 1)).transpose(0, 1)
    stored = torch.cat(up.chunk(2)[::-1]) if "mlp" in layer else up  # diffusers has the halves the other way round
    stem = DORA[layer]
    state = {f"{stem}.lora_up.weight": stored, f"{stem}.lora_down.weight": down, f"{stem}.alpha": torch.tensor(2.0)}
    network = mounted(saved(state | {f"{stem}.dora_scale": magnitude}), strength)
    expected = before + strength * (trained - before)
    assert relative_error(network.get_submodule(layer).weight, expected) < 1e-5


def test_dora_on_a_part_of_a_weight(saved):
    """Only the rows of k have other lengths, and those of the file."""
    layer, stem = "blocks.0.attn.qkv_x.weight", "transformer.transformer_blocks.0.attn1.to_k"
    state = {f"{stem}.lora_A.weight": random(3, 96), f"{stem}.lora_B.weight": random(96, 3)}
    magnitude = torch.rand(96, generator=GENERATOR) + 0.5
    weight = mounted(saved(state | {f"{stem}.lora_magnitude_vector": magnitude})).get_parameter(layer)
    before = tiny_dit().get_parameter(layer)
    torch.testing.assert_close(weight[96:192].norm(dim=1), magnitude)
    assert torch.equal(weight[:96], before[:96]) and torch.equal(weight[192:], before[192:])


DIFFERENCES = {  # key -> (parameter, its first row, rows, whether the halves are swapped)
    "diffusion_model.blocks.0.mlp_x.w2.diff": ("blocks.0.mlp_x.w2.weight", 0, 96, False),
    "transformer.transformer_blocks.1.attn1.to_v.diff": ("blocks.1.attn.qkv_x.weight", 192, 96, False),
    "transformer_blocks.0.ff.net.0.proj.diff": ("blocks.0.mlp_x.w1.weight", 0, 512, True),
    "module.x_embedder.proj.diff": ("x_embedder.proj.weight", 0, 96, False),
    "blocks.1.attn.q_norm_x.w_norm": ("blocks.1.attn.q_norm_x.weight", 0, 24, False),
    "lora_unet_blocks_0_attn_proj_x.diff_b": ("blocks.0.attn.proj_x.bias", 0, 96, False),
    "norm_out.linear.diff_b": ("final_layer.mod.bias", 0, 192, True),
}


@pytest.mark.parametrize("key", DIFFERENCES)
@pytest.mark.parametrize("strength", [1.0, -0.3])
def test_differences(saved, key, strength):
    name, start, count, swapped = DIFFERENCES[key]
    expected = tiny_dit().get_parameter(name).clone()
    diff = random(count, *expected.shape[1:])
    expected[start : start + count] += strength * (torch.cat(diff.chunk(2)[::-1]) if swapped else diff)
    network = mounted(saved({key: diff}), strength)
    torch.testing.assert_close(network.get_parameter(name), expected)
    others = {other: p for other, p in network.named_parameters() if other != name}
    assert all(torch.equal(p, tiny_dit().get_parameter(other)) for other, p in others.items())


def test_on_quantised_weights(saved):
    """A bias beside a quantised weight too; all of it can be taken off again."""
    network, plain, layer = tiny_dit(), tiny_dit(), "blocks.0.attn.proj_x"
    quant = Float8(torch.float8_e4m3fn)
    weight = plain.get_submodule(layer).weight
    values = quant.quantize(weight)
    weight.copy_(quant.dequantize(values, torch.float32))
    quant_linears(network, {f"{layer}.weight": quant})
    network.load_state_dict(plain.state_dict() | {f"{layer}.weight": values})
    without = predicted(network)
    state = {f"{layer}.lora_A": random(3, 96), f"{layer}.lora_B": random(96, 3), f"{layer}.diff_b": random(96)}
    lora = read_lora(saved(state | {f"{layer}.dora_scale": torch.rand(96, 1, generator=GENERATOR)}))
    mounts = LoraMount(network), LoraMount(plain)
    for mount in mounts:
        mount.use([(lora, 0.7)])
    assert relative_error(predicted(network), predicted(plain)) < 1e-5 < relative_error(predicted(network), without)
    mounts[0].use([])
    assert torch.equal(predicted(network), without)
