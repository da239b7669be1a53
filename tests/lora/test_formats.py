"""Every file format is read as what its own writer means by it."""

import json
import logging
import re

import pytest
import torch
from diffusers import MochiPipeline
from peft import LoraConfig, PeftModel, get_peft_model

from mochi.lora import LoraMount, check_lora, read_lora
from tests.exact import relative_error
from tests.lora.conftest import CONFIG, RANK, TARGETS, predicted, tiny_dit
from tests.peers.diffusers import diffusers_dit

OURS = ("blocks.0.attn.qkv_x", "blocks.1.attn.qkv_y", "blocks.0.attn.proj_y", "blocks.1.mlp_x.w1", "final_layer.mod")
OURS += ("x_embedder.proj", "t5_yproj")


def with_lora(path, strength=1.0):
    network = tiny_dit()
    LoraMount(network).use([(read_lora(path), strength)])
    return predicted(network)


def factors(names=OURS):
    """Random (down, up) for layers of ours."""
    generator = torch.Generator().manual_seed(3)
    network = tiny_dit()
    made = {}
    for name in names:
        out, columns = network.get_submodule(name).weight.flatten(1).shape
        made[name] = [torch.randn(shape, generator=generator) * 0.2 for shape in ((RANK, columns), (out, RANK))]
    return made


def merged(made, scale):
    """What the network makes with factors added to its weights by hand."""
    network = tiny_dit()
    for name, (down, up) in made.items():
        weight = network.get_submodule(name).weight
        weight += (scale(name) * up @ down).view(weight.shape)
    return predicted(network)


def test_diffusers(trained):
    """Fused into qkv, halves swapped, alphas and ranks from the metadata that diffusers writes."""
    assert relative_error(with_lora(trained.path), trained.out) < 1e-5
    assert relative_error(predicted(tiny_dit()), trained.out) > 0.1


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"lora_alpha": 1, "r": 8}, {"target_modules": ["to_v"]}]
)
def test_settings_of_peft(train, settings):
    made = train(**settings)
    assert relative_error(with_lora(made.path), made.out) < 1e-5


def test_diffusers_pipeline(trained, tmp_path):
    """Names and metadata with `transformer.` before."""
    config = json.loads(trained.metadata()["lora_adapter_metadata"])
    layers = {"transformer_lora_layers": trained.state, "transformer_lora_adapter_metadata": config}
    MochiPipeline.save_lora_weights(tmp_path, **layers)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    assert relative_error(with_lora(path), trained.out) < 1e-5


def test_peft_model(tmp_path):
    """`base_model.model.` before, and the settings in a file beside. The folder stands for its file."""
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=7, target_modules=TARGETS, init_lora_weights=False)
    theirs: PeftModel = get_peft_model(diffusers_dit(tiny_dit()), config)
    theirs.save_pretrained(tmp_path)
    out = predicted(theirs.eval().base_model.model)
    for path in (tmp_path / "adapter_model.safetensors", tmp_path):
        assert relative_error(with_lora(path), out) < 1e-5


def same(one, other):
    """Whether two LoRAs are the same but for rounding."""
    assert one.patches.keys() == other.patches.keys() and one.shapes == other.shapes
    for name, several in one.patches.items():
        by_start = [sorted(lora, key=lambda f: f.start) for lora in (several, other.patches[name])]
        for a, b in zip(*by_start, strict=True):
            assert torch.equal(a.up, b.up) and torch.equal(a.down, b.down)
            assert a.start == b.start and a.scale == pytest.approx(b.scale)
    return True


PEFT_NAME = re.compile(r"(.+)\.lora_(A|B)\.weight")
RENAMINGS = {
    "transformer": "transformer.{0}.lora_{1}.weight",
    "base_model": "base_model.model.{0}.lora_{1}.weight",
    "base_model and transformer": "base_model.model.transformer.{0}.lora_{1}.weight",
    "default adapter": "transformer.{0}.lora_{1}.default.weight",
    "lora.down": "transformer.{0}.lora.{2}.weight",
    "_lora.down": "transformer.{0}_lora.{2}.weight",
    "kohya": "lora_unet_{3}.lora_{2}.weight",
    "OneTrainer": "lora_transformer_{3}.lora_{2}.weight",
    "lycoris": "lycoris_{3}.lora_{2}.weight",
}


@pytest.mark.parametrize("pattern", RENAMINGS.values(), ids=RENAMINGS)
def test_names_of_diffusers_layers(trained, saved, pattern):
    """The same LoRA under other names, with alphas as tensors."""
    state = {}
    for name, value in trained.state.items():
        stem, letter = PEFT_NAME.fullmatch(name).groups()
        name = pattern.format(stem, letter, {"A": "down", "B": "up"}[letter], stem.replace(".", "_"))
        state[name] = value
        alpha = 2.0 if stem.endswith("to_q") else 7.0 if stem.endswith("ff.net.2") else 5.0
        state[re.split(r"[._]lora[._](?!unet|transformer)|\.lora_", name)[0] + ".alpha"] = torch.tensor(alpha)
    path = saved(state)
    check_lora(path)
    assert same(read_lora(path), read_lora(trained.path))


def test_published_trainer(saved):
    """Factors without `.weight`; rank and alpha, of qkv and of the projections, as JSON in the metadata."""
    made = factors([f"blocks.{i}.attn.{name}" for i in range(2) for name in ("qkv_x", "qkv_y", "proj_x")])
    state = {f"{name}.lora_{letter}": t for name, pair in made.items() for letter, t in zip("AB", pair, strict=True)}
    kwargs = {"qkv_proj_lora_rank": RANK, "qkv_proj_lora_alpha": 6, "qkv_proj_lora_dropout": 0.0}
    kwargs |= {"out_proj_lora_rank": RANK, "out_proj_lora_alpha": 1, "out_proj_lora_dropout": 0.0}
    expected = merged(made, lambda name: (6 if "qkv" in name else 1) / RANK)
    assert relative_error(with_lora(saved(state, kwargs=kwargs)), expected) < 1e-5
    assert relative_error(with_lora(saved(state)), merged(made, lambda name: 1)) < 1e-5
    one_alpha = saved(state, kwargs={"rank": RANK, "alpha": 4})
    assert relative_error(with_lora(one_alpha), merged(made, lambda name: 4 / RANK)) < 1e-5


@pytest.mark.parametrize(
    "pattern",
    [
        "lora_unet_{1}.lora_{2}.weight",
        "diffusion_model.{0}.lora_{3}.weight",
        "diffusion_model.{0}.lora_{2}.weight",
        "model.diffusion_model.{0}.lora_{3}.default.weight",
        "{0}.lora_{3}.weight",
    ],
)
def test_names_of_our_layers(saved, pattern):
    """kohya's scripts and ComfyUI; convolutions and linear layers; an alpha beside the factors, or none."""
    made, state = factors(), {}
    for name, pair in made.items():
        for which, letter, t in zip(("down", "up"), "AB", pair, strict=True):
            if name == "x_embedder.proj":
                t = t.view(RANK, 12, 2, 2) if which == "down" else t.view(-1, RANK, 1, 1)
            state[pattern.format(name, name.replace(".", "_"), which, letter)] = t
    assert relative_error(with_lora(saved(state)), merged(made, lambda name: 1)) < 1e-5
    stems = {name.split(".lora_")[0] for name in state}
    path = saved(state | {f"{stem}.alpha": torch.tensor(2.0) for stem in stems})
    assert relative_error(with_lora(path), merged(made, lambda name: 2 / RANK)) < 1e-5


def test_half_precision_factors(trained, saved):
    half = saved({name: t.bfloat16() for name, t in trained.state.items()}, **trained.metadata())
    assert relative_error(with_lora(half), trained.out) < 0.03


def test_a_few_strange_layers_are_left_out(trained, saved, caplog):
    strange = {f"text_encoder.layer.{i}.lora_{x}.weight": torch.zeros(4, 4) for i in range(6) for x in "AB"}
    path = saved(trained.state | strange | {"step": torch.tensor(3)}, **trained.metadata())
    with caplog.at_level(logging.WARNING):
        assert same(read_lora(path), read_lora(trained.path))
    assert "6 of its" in caplog.text and "text_encoder.layer.0" in caplog.text and "and 2 more" in caplog.text
    assert "1 tensors do not belong" in caplog.text and "step" in caplog.text


def test_last_block_has_a_name_of_its_own(trained):
    shapes = read_lora(trained.path).shapes
    last = CONFIG.depth - 1
    assert shapes[f"blocks.{last}.mod_y.weight"] == (48, 96)
    assert shapes["blocks.0.mod_y.weight"] == (4 * 48, 96)
