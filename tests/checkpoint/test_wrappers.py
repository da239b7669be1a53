"""Whatever training puts around a network, and so into the names of its tensors, the network is found."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.checkpoint import Checkpoint
from mochi.checkpoint.layouts.wrappers import AVERAGES, INNER, OUTER
from mochi.checkpoint.lazy import StoredTensor
from mochi.errors import CheckpointError
from tests.checkpoint import toys
from tests.peers.diffusers import diffusers_dit


def opened(*names):
    """A file with tensors of these names."""
    entry = StoredTensor((4, 4), torch.bfloat16, None, None)
    return Checkpoint(Path("file"), dict.fromkeys((name for several in names for name in several), entry))


def prefixed(prefix, names):
    return [prefix + name for name in names]


DIT = list(toys.dit().state_dict())
DIFFUSERS = list(diffusers_dit(toys.dit(toys.DIFFUSERS_DIT)).state_dict())
DECODER, ENCODER = (list(network.state_dict()) for network in toys.vae().values())
VAE = [*prefixed("decoder.", DECODER), *prefixed("encoder.", ENCODER)]
T5 = ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.final_layer_norm.weight"]
FOUND = {
    "published": (DIT, {"dit": set(DIT)}),
    "diffusers": (DIFFUSERS, {"dit": set(DIT)}),
    "ComfyUI": (VAE, {"decoder": set(DECODER), "encoder": set(ENCODER)}),
    "T5": (T5, {"t5": set(T5)}),
}

wrappers = st.sampled_from((*INNER, *OUTER, *AVERAGES, "student", "my_trainer", "0"))


def parts(file):
    return {part: set(entries) for part, entries in file.parts.items()}


@given(layout=st.sampled_from(sorted(FOUND)), prefix=st.lists(wrappers, max_size=4), data=st.data())
def test_before_and_in_the_middle_of_names(layout, prefix, data):
    """Inner wrappers stand anywhere, and not in every name."""
    names, expected = FOUND[layout]
    inside = data.draw(st.lists(st.sampled_from(INNER), max_size=2))
    where = data.draw(st.integers(1, 4))

    def wrapped(name):
        pieces = name.split(".")
        place = where if len(pieces) > where + 1 else 0
        return ".".join([*prefix, *pieces[:place], *inside, *pieces[place:]])

    assert parts(opened(map(wrapped, names))) == expected


@pytest.mark.parametrize(
    ("network", "average"),
    [("", "ema."), ("model.", "ema_model."), ("module.", "module.ema."), ("model.diffusion_model.", "model_ema.")],
)
def test_the_network_is_taken_not_its_average(network, average):
    file = opened(prefixed(network, DIT), prefixed(average, DIT), ["model_ema.decay"])
    assert parts(file) == {"dit": set(DIT)}
    alone = opened(prefixed(average, DIT), [f"{average}decay", "n_averaged"])
    assert parts(alone) == {"dit": set(DIT)}


def test_each_part_under_a_prefix_of_its_own():
    file = opened(prefixed("student.transformer.", DIFFUSERS), prefixed("my.vae.", VAE), prefixed("text_encoder.", T5))
    assert parts(file) == {"dit": set(DIT), **FOUND["ComfyUI"][1], **FOUND["T5"][1]}


@pytest.mark.parametrize(("one", "other"), [("student.", "teacher."), ("a.b.", "a.c."), ("generator.", "critic.net.")])
def test_two_networks_are_named(one, other):
    with pytest.raises(CheckpointError, match=f"two of Mochi AsymmDiT, under {one} and {other}"):
        opened(prefixed(one, DIT), prefixed(other, DIT)).parts  # noqa: B018


def test_two_tensors_of_one_name_are_named():
    with pytest.raises(CheckpointError, match=r"module\.x_embedder\.proj\.bias.* are both x_embedder\.proj\.bias"):
        opened(DIT, ["module.x_embedder.proj.bias"]).parts  # noqa: B018


def test_a_network_with_an_adapter_on_it_is_refused():
    """PEFT's layers keep their weight as `base_layer`; the adapter has to be merged."""
    names = [name.replace("attn.proj_x.", "attn.proj_x.base_layer.") for name in DIT]
    adapter = ["blocks.0.attn.proj_x.lora_A.default.weight", "blocks.0.attn.proj_x.lora_B.default.weight"]
    assert parts(opened(names)) == {"dit": set(DIT)}
    assert set(adapter) < parts(opened(names, adapter))["dit"]


def test_weights_are_read(tmp_path):
    network = toys.dit()
    state = {
        f"module._orig_mod.{name.replace('.attn.', '._checkpoint_wrapped_module.attn.')}": value.clone()
        for name, value in network.state_dict().items()
    }
    plan = Checkpoint.open(toys.save(tmp_path / "wrapped.safetensors", state)).plan("dit")
    for name, value in network.state_dict().items():
        assert torch.equal(plan.read(name, slice(0, len(value))), value)
