"""Files in quantised formats that are not read: one sentence that names the format, and what to take instead."""

import json

import pytest
import torch

from mochi.checkpoint import Checkpoint, load_dit
from mochi.cli.describe import describe
from mochi.errors import CheckpointError
from tests.checkpoint import toys
from tests.checkpoint.slots import t5

BYTES = torch.zeros(8, 8, dtype=torch.uint8)
# What each library writes in place of `LAYER.weight`, after LAYER.
FOREIGN = {
    "NF4 of bitsandbytes": (".weight", ".weight.absmax", ".weight.quant_map", ".weight.quant_state.bitsandbytes__nf4"),
    "FP4 of bitsandbytes": (".weight", ".weight.absmax", ".weight.quant_map", ".weight.quant_state.bitsandbytes__fp4"),
    "int8 of bitsandbytes": (".weight", ".SCB", ".weight_format"),
    "quanto": (".weight._data", ".weight._scale", ".input_scale", ".output_scale"),
    "torchao": ("._weight_qdata", "._weight_scale"),
    "SVDQuant of nunchaku": (".qweight", ".wscales", ".smooth_factor", ".proj_down", ".proj_up"),
    "GPTQ": (".qweight", ".qzeros", ".scales", ".g_idx"),
    "AWQ": (".qweight", ".qzeros", ".scales"),
    "compressed-tensors": (".weight_packed", ".weight_scale", ".weight_shape"),
    "HQQ": (".W_q", ".scale", ".zero"),
    "SDNQ": (".weight", ".scale", ".zero_point"),
    "MLX": (".weight", ".scales", ".biases"),
    "float8 in blocks": (".weight", ".weight_scale_inv"),
    "NVFP4 of ModelOpt": (".weight", ".weight_scale", ".weight_scale_2", ".input_scale"),
}
MODELS = {"dit": "blocks.{}.mlp_x.w1", "t5": "encoder.block.{}.layer.1.DenseReluDense.wo"}


@pytest.fixture(scope="module")
def weights():
    return {"dit": toys.dit().state_dict(), "t5": t5().state_dict()}


@pytest.mark.parametrize("part", MODELS)
@pytest.mark.parametrize("title", FOREIGN)
def test_the_format_is_named(title, part, weights, tmp_path):
    stored = {name: weight.clone() for name, weight in weights[part].items()}
    for layer in (MODELS[part].format(i) for i in range(2)):
        del stored[f"{layer}.weight"]
        stored |= {layer + end: BYTES.clone() for end in FOREIGN[title]}
    path = toys.save(tmp_path / "model.safetensors", stored)
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(path)
    message = str(error.value)
    assert message.startswith(f"{path}: quantised in the format {title}") and "\n" not in message
    assert all(word in message for word in ("bfloat16", "scaled float8", "GGUF"))


def test_int8_with_a_scale_of_nobody_known(weights, tmp_path):
    layer = "blocks.0.mlp_x.w1"
    stored = {**weights["dit"], f"{layer}.weight": torch.zeros(192, 64, dtype=torch.int8)}
    path = toys.save(tmp_path / "model.safetensors", stored | {f"{layer}.weight_scale": torch.tensor(0.5)})
    with pytest.raises(CheckpointError, match=r"has a scale, but is in torch.int8.*GGUF"):
        Checkpoint.open(path)


# Shapes of the weight and of its scales, for 192 rows of 64.
OF_COMFYUI = {
    "nvfp4": (torch.uint8, (192, 32), {"weight_scale": (256, 4), "weight_scale_2": ()}),
    "mxfp8": (torch.float8_e4m3fn, (192, 64), {"weight_scale": (256, 4)}),
    "int8_tensorwise": (torch.int8, (192, 64), {"weight_scale": ()}),
    "int8_blockwise": (torch.int8, (192, 64), {"weight_scale": (2, 1)}),
}


def of_comfyui(kind, weights, path, beside):
    layer, (dtype, shape, scales) = "blocks.0.mlp_x.w1", OF_COMFYUI[kind]
    stored, conf = {**weights, f"{layer}.weight": torch.zeros(shape).to(dtype)}, {"format": kind}
    stored |= {f"{layer}.{name}": torch.ones(size) for name, size in scales.items()}
    if beside:
        text = json.dumps(conf).encode()
        return toys.save(path, {**stored, f"{layer}.comfy_quant": torch.frombuffer(bytearray(text), dtype=torch.uint8)})
    return toys.save(path, stored, _quantization_metadata={"layers": {layer: conf}})


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("kind", OF_COMFYUI)
def test_formats_of_comfyui_are_read_by_its_layers_alone(kind, beside, weights, tmp_path):
    path = of_comfyui(kind, weights["dit"], tmp_path / "model.safetensors", beside)
    with pytest.raises(CheckpointError, match=f"AsymmDiT in {kind} of ComfyUI's quantiser.*one GPU.*GGUF") as error:
        load_dit(path)
    assert str(error.value).startswith(f"{path}: ")
    (part,) = describe(path).parts
    assert kind in part.kinds and part.problem is not None and kind in part.problem
    file = Checkpoint.open(path)
    file.check("dit", {kind})  # nothing else is wrong with it
    assert file.config("dit").mlp_x == toys.DIT.mlp_x and file.dtype("dit") == torch.float32
