"""The gradients of a LoRA are those of other libraries and of the plain formula."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mochi.config import DiTConfig
from mochi.dit import AsymmDiT
from mochi.train.lora import LoraLinear
from mochi.train.settings import Rank
from tests.exact import assert_close, relative_error
from tests.peers.diffusers import diffusers_dit
from tests.peers.peft import add_peft_lora
from tests.peers.peft import gradients as peft_gradients
from tests.peers.plain import plain_dit
from tests.random_weights import randomised
from tests.train.learning import assert_alike, clips, gradients, learn, loss, with_lora

# The diffusers MLP is 8/3 of the width, without the rounding that the published sizes do not need.
CONFIG = DiTConfig(depth=3, num_heads=4, hidden_x=96, hidden_y=48, mlp_x=256, mlp_y=128, text_width=64, text_length=32)


@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("lengths", [[20], [20, 7], [0], [13, 0]], ids=str)
def test_equal_those_of_diffusers_with_peft(lengths, mlp):
    ours = randomised(AsymmDiT(CONFIG))
    theirs, layers, batch = diffusers_dit(ours), with_lora(ours, mlp), clips(CONFIG, lengths)
    add_peft_lora(theirs, layers)
    out = theirs(batch.z, batch.features, 1000 * (1 - batch.sigma), batch.mask, return_dict=False)[0]
    F.mse_loss(out, batch.target).backward()
    assert_alike(learn(ours, layers, batch), peft_gradients(theirs, layers))


@pytest.mark.parametrize("lengths", [[9], [0, 11]], ids=str)
def test_equal_those_of_the_plain_formula_with_a_level_for_each_frame(lengths):
    ours = randomised(AsymmDiT(CONFIG))
    weights = dict(ours.named_parameters())
    layers, batch = with_lora(ours), clips(CONFIG, lengths, size=(3, 4, 6), levels=True)
    found = learn(ours, layers, batch)
    ours.zero_grad()
    for name, layer in layers.items():
        weights[f"{name}.weight"] = layer.base.weight + layer.scale * layer.lora_B @ layer.lora_A
    plain = SimpleNamespace(config=CONFIG, named_parameters=weights.items)
    out = plain_dit(plain, batch.z, batch.sigma, batch.features, batch.mask)
    F.mse_loss(out, batch.target).backward()
    assert_alike(found, gradients(layers))


def test_two_clips_one_after_the_other_are_a_batch_of_both():
    model = randomised(AsymmDiT(CONFIG))
    layers, batch = with_lora(model), clips(CONFIG, [20, 7])
    together = learn(model, layers, batch)
    model.zero_grad()
    for number in range(2):
        (loss(model, batch.rows(slice(number, number + 1))) / 2).backward()
    assert_alike(gradients(layers), together)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(7, 6), (2, 5, 6), (1, 0, 6)], ids=str)
def test_those_of_a_layer_are_those_of_small_differences(shape, dropout):
    """In float64, with the same values left out each time."""
    generator = torch.Generator().manual_seed(0)
    layer = LoraLinear(nn.Linear(6, 4).requires_grad_(False), Rank(3, 5.0), dropout, generator).double()
    nn.init.normal_(layer.lora_B, generator=generator)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    def product(x, lora_A, lora_B):
        torch.manual_seed(7)
        return torch.func.functional_call(layer, {"lora_A": lora_A, "lora_B": lora_B}, x)

    torch.autograd.gradcheck(product, (x, layer.lora_A, layer.lora_B))


def test_dropout_leaves_out_its_share_of_the_inputs_of_the_factors():
    layer = LoraLinear(nn.Linear(500, 4), Rank(8, 8.0), 0.2, torch.Generator().manual_seed(0)).requires_grad_(False)
    nn.init.normal_(layer.lora_B)
    x = torch.randn(2000, 500)
    change = layer(x) - layer.base(x)
    whole = layer.eval()(x) - layer.base(x)
    assert_close(whole, x @ layer.lora_A.T @ layer.lora_B.T)
    # Each input is there with probability 0.8, and then 1 / 0.8 as large: its variance is 0.2 / 0.8.
    assert relative_error(change, whole) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_computed_does_not_depend_on_whether_gradients_are_wanted(dtype):
    model = randomised(AsymmDiT(CONFIG)).to(dtype)
    plain, batch = randomised(AsymmDiT(CONFIG)).to(dtype), clips(CONFIG, [20, 7])
    batch = batch._replace(z=batch.z.to(dtype), features=batch.features.to(dtype))
    layers = with_lora(model)

    def out(network):
        return network(batch.z, batch.sigma, network.encode_text(batch.features, batch.mask))

    learning = out(model)
    with torch.no_grad():
        assert learning.requires_grad and out(model).equal(learning)
        for layer in layers.values():
            layer.strength = 0.0
        assert out(model).equal(out(plain)) and relative_error(learning, out(plain)) > 0.01


def test_in_bfloat16_they_are_no_further_off_than_those_of_diffusers_under_autocast():
    exact_model = randomised(AsymmDiT(CONFIG))
    theirs, layers, batch = diffusers_dit(exact_model).bfloat16(), with_lora(exact_model), clips(CONFIG, [20, 7])
    add_peft_lora(theirs, layers)
    exact, model = learn(exact_model, layers, batch), randomised(AsymmDiT(CONFIG))
    frequencies = model.pos_frequencies.data
    model.bfloat16().pos_frequencies.data = frequencies
    for p in theirs.parameters():
        p.data = p.data.float() if p.requires_grad else p.data
    theirs.pos_frequencies.data = frequencies
    half = batch._replace(z=batch.z.bfloat16(), features=batch.features.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        out = theirs(half.z, half.features, 1000 * (1 - half.sigma), half.mask, return_dict=False)[0]
    F.mse_loss(out.float(), batch.target).backward()
    ours, theirs = learn(model, with_lora(model), half), peft_gradients(theirs, layers)
    assert all(gradient.dtype == torch.float32 for gradient in ours.values())
    errors = [sum(relative_error(found[name], exact[name]) for name in exact) for found in (ours, theirs)]
    assert errors[0] <= errors[1] < 0.1 * len(exact), errors
