"""Files that are damaged or of another kind: one clear error each, from every loader."""

import json
import struct
import time

import pytest
import torch
from gguf import GGUFEndian
from safetensors import safe_open
from safetensors.torch import load_file

from mochi.errors import CheckpointError
from tests.checkpoint import toys, writers
from tests.checkpoint.slots import slots

SLOTS = ("dit", "decoder", "encoder", "t5")

OTHER_MODELS = {
    "a Stable Diffusion model": (
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "first_stage_model.decoder.mid.attn_1.k.weight",
        "model.diffusion_model.input_blocks.0.0.weight",
    ),
    "a Stable Diffusion 3 model": (
        "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    ),
    "a Flux or Hunyuan model": ("double_blocks.0.img_attn.norm.key_norm.scale", "single_blocks.0.linear1.weight"),
    "a Flux model in the diffusers layout": (
        "single_transformer_blocks.0.attn.norm_k.weight",
        "transformer_blocks.0.attn.add_k_proj.weight",
    ),
    "a Wan video model": ("blocks.0.self_attn.q.weight", "patch_embedding.weight"),
    "an LTX video or PixArt model": (
        "model.diffusion_model.adaln_single.emb.timestep_embedder.linear_1.weight",
        "vae.decoder.conv_in.conv.weight",
    ),
    "a CLIP text encoder": ("text_model.encoder.layers.0.self_attn.k_proj.weight", "text_model.final_layer_norm.bias"),
    "an image VAE": ("decoder.up.0.block.0.conv1.weight", "encoder.mid.attn_1.k.weight"),
    "a LoRA": ("transformer.transformer_blocks.0.attn1.to_q.lora_A.weight", "x.lora_B.weight"),
    "a LoRA, which": ("lora_unet_blocks_0_attn_qkv_x.lora_down.weight", "lora_unet_x.lora_up.weight"),
    "no model that is known here": ("layers.0.something.weight", "more.bias"),
}


@pytest.fixture(scope="module")
def all_slots(tmp_path_factory):
    return slots(tmp_path_factory.mktemp("slots"))


@pytest.fixture(params=SLOTS)
def slot(request, all_slots):
    return all_slots[request.param]


def refused(load, path, *messages, name=None):
    """One sentence that names the file and what is wrong with it."""
    with pytest.raises(CheckpointError) as error:
        load(path)
    text = str(error.value)
    assert (name or str(path)) in text and len(text) < 1200 and "\n" not in text
    for message in messages:
        assert message in text
    return text


def test_whole_files_load(slot, tmp_path):
    """So that what the other tests change is what is wrong."""
    assert slot.load(toys.save(tmp_path / "file.safetensors", slot.weights))


@pytest.mark.parametrize("what", OTHER_MODELS)
def test_other_models(what, slot, tmp_path):
    names = sorted(OTHER_MODELS[what])
    path = toys.save(tmp_path / "other.safetensors", {name: torch.zeros(2, 2) for name in names})
    refused(slot.load, path, f"not a {slot.title}; it seems to be {what}", f"its tensors: {', '.join(names)}")


@pytest.mark.parametrize("other", SLOTS)
def test_the_others_parts(other, slot, all_slots, tmp_path):
    other = all_slots[other]
    if other is slot:
        return
    path = toys.save(tmp_path / "other.safetensors", other.weights)
    article = "a" if other.title == "T5 text encoder" else "the"
    first = sorted(other.weights)[0]
    refused(slot.load, path, f"not a {slot.title}; it seems to be {article} {other.title}", f"its tensors: {first}")


def test_stable_diffusion_3_with_its_t5(all_slots, tmp_path):
    """Whose T5 a prompt encoder can take, but which is no Mochi."""
    t5 = {f"text_encoders.t5xxl.transformer.{name}": w for name, w in all_slots["t5"].weights.items()}
    sd3 = {name: torch.zeros(1) for name in OTHER_MODELS["a Stable Diffusion 3 model"]}
    path = toys.save(tmp_path / "sd3.safetensors", t5 | sd3)
    refused(all_slots["dit"].load, path, "it seems to be a Stable Diffusion 3 model")
    assert all_slots["t5"].load(path)


def test_no_tensors_at_all(slot, tmp_path):
    refused(slot.load, toys.save(tmp_path / "none.safetensors", {}), f"not a {slot.title}", "its tensors: none")


def header_of(table):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text


CUT = "cut short or corrupt"
ONE = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
NOT_FILES = {
    "empty": (b"", CUT),
    "noise": (bytes(range(256)) * 16, CUT),
    "zeros": (bytes(4096), CUT),
    "text": (b"<!DOCTYPE html><html>Not found</html>", CUT),
    "zip": (b"PK\x03\x04" + bytes(64), "a pickle"),
    "pickle": (b"\x80\x02}q\x00." + bytes(64), "a pickle"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "a header that is longer than the file": (struct.pack("<Q", 1 << 20) + b"{}", CUT),
    "a header of an impossible length": (b"\xff" * 8 + b"{}", CUT),
    "a header that is no JSON": (header_of(b"{" * 40), CUT),
    "a tensor beyond the end": (header_of(ONE) + bytes(8), CUT),
    "a tensor shorter than its shape": (header_of({"a": ONE["a"] | {"data_offsets": [0, 8]}}) + bytes(8), CUT),
    "a hole between tensors": (header_of({"a": ONE["a"] | {"data_offsets": [8, 24]}}) + bytes(24), CUT),
    "GGUF, cut": (b"GGUF\x03\x00\x00\x00\x05", "not a whole GGUF file"),
    "GGUF of another version": (b"GGUF\x63\x00\x00\x00" + bytes(16), "not a whole GGUF file"),
    "GGUF of many tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 40, 0) + bytes(999), "not a whole GGUF file"),
    "GGUF of many fields": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 40) + bytes(999), "not a whole GGUF file"),
    "GGUF with a long list": (
        struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"a", 9, 0, 1 << 30) + bytes(999),
        "not a whole GGUF file",
    ),
}


@pytest.mark.parametrize("kind", NOT_FILES)
@pytest.mark.parametrize("size", ["as it is", "2 GB"])
def test_no_weight_files(kind, size, slot, tmp_path):
    """Within a second of work, also where the file goes on with 2 GB of zeros."""
    content, message = NOT_FILES[kind]
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(content)
        if size == "2 GB":
            file.truncate(2 << 30)
    start = time.process_time()
    refused(slot.load, path, CUT if size == "2 GB" and kind == "empty" else message)
    assert time.process_time() - start < 1


def test_another_model_of_2_gb(slot, tmp_path):
    path = tmp_path / "model.safetensors"
    entry = {"dtype": "F32", "shape": [1 << 14, 1 << 15], "data_offsets": [0, 1 << 31]}
    with path.open("wb") as file:
        file.write(header_of({"double_blocks.0.img_attn.qkv.weight": entry}))
        file.truncate(file.tell() + (2 << 30))
    start = time.process_time()
    refused(slot.load, path, "Flux")
    assert time.process_time() - start < 1


@pytest.mark.parametrize("kept", [0.001, 0.3, 0.999])
def test_truncated(kept, slot, tmp_path):
    path = toys.save(tmp_path / "file.safetensors", slot.weights)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    refused(slot.load, path, CUT)


@pytest.mark.parametrize("row", [0, -1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_numbers(row, value, slot, tmp_path):
    weights = {name: w.clone() for name, w in slot.weights.items()}
    weights[slot.sample][row, -1] = value
    refused(slot.load, toys.save(tmp_path / "file.safetensors", weights), slot.sample, "NaN or infinite", "damaged")


@pytest.mark.parametrize("writer", [writers.QWEIGHTS["qweight Q8_0"], writers.GGUFS["GGUF Q5_1"]])
def test_packed_numbers_that_are_none(writer, all_slots, tmp_path):
    """An infinite scale in the last block of a weight."""
    weights = toys.dit().state_dict()
    good = writers.quantised_blocks(weights["blocks.1.mlp_x.w2.weight"], "Q8_0" if "Q8" in str(writer) else "Q5_1")
    path = writer(tmp_path, weights)
    content, size = path.read_bytes(), 34 if "Q8" in str(writer) else 24
    block = good.reshape(-1, size)[-1].tobytes()
    assert content.count(block) == 1
    path.write_bytes(content.replace(block, b"\x00\x7c" + block[2:]))
    refused(all_slots["dit"].load, path, "blocks.1.mlp_x.w2.weight", "NaN or infinite")


def test_scales_that_are_none(all_slots, tmp_path):
    load, name = all_slots["dit"].load, "blocks.0.mod_x.scale_weight"
    path = writers.old_scaled(tmp_path, toys.dit().state_dict())
    tensors = load_file(path)
    for scale, message in (
        (torch.tensor(float("nan")), "which is not a scale"),
        (torch.ones(3), "must be one number"),
        (torch.tensor(1, dtype=torch.uint16), "must be one number"),
    ):
        refused(load, toys.save(path, tensors | {name: scale}), name, message)
    plain = {"blocks.0.mod_x.weight": tensors["blocks.0.mod_x.weight"].bfloat16()}
    refused(load, toys.save(path, tensors | plain), "blocks.0.mod_x.weight has a scale, but is in torch.bfloat16")


@pytest.mark.parametrize("described", ["null", "{", '{"layers": {"a": {}}}', '{"layers": {"a": {"format": "nvfp4"}}}'])
def test_formats_that_are_not_known(described, all_slots, tmp_path):
    path = toys.save(tmp_path / "dit.safetensors", all_slots["dit"].weights, _quantization_metadata=described)
    refused(all_slots["dit"].load, path, "nvfp4" if "nvfp4" in described else "of its quantisation cannot be read")


def test_formats_of_blocks_that_are_not_known(all_slots, tmp_path):
    load, weights = all_slots["dit"].load, toys.dit().state_dict()
    path = tmp_path / "dit.safetensors"
    unknown = {"blocks.0.mod_x.IQ1_S_qweight": torch.zeros(4, 50, dtype=torch.uint8)}
    refused(
        load, toys.save(path, weights | unknown), "IQ1_S_qweight is of the type IQ1_S; those that can be read: Q4_0"
    )
    uneven = {"blocks.0.mod_x.Q4_0_qweight": torch.zeros(4, 50, dtype=torch.uint8)}
    refused(load, toys.save(path, weights | uneven), "rows of 50 bytes cannot be Q4_0")
    wide = {"blocks.0.mod_x.Q4_0_qweight": torch.zeros(4, 36)}
    refused(load, toys.save(path, weights | wide), "should be rows of bytes, but it is [4, 36] of torch.float32")
    refused(load, writers.gguf(tmp_path, weights, "MXFP4"), "is of the type MXFP4; those that can be read are F32")


def test_missing_surplus_and_misshapen(slot, tmp_path):
    path, name = tmp_path / "file.safetensors", slot.sample
    others = {n: w for n, w in slot.weights.items() if n != name}
    refused(slot.load, toys.save(path, others), "missing", name)
    refused(slot.load, toys.save(path, slot.weights | {"extra.weight": torch.zeros(2)}), "not belong", "extra.weight")
    for wrong in (slot.weights[name][:-1], slot.weights[name][None], torch.zeros(()), torch.zeros(0, 4)):
        refused(slot.load, toys.save(path, others | {name: wrong}), f"{name} is {list(wrong.shape)}, expected [")
    integers = {name: slot.weights[name].to(torch.int8)}
    refused(slot.load, toys.save(path, others | integers), "not of floating point, nor packed in a known way", name)


@pytest.mark.parametrize("shape", [(1, 96, 96), (96, 5), ()])
def test_parts_of_a_weight_that_do_not_fit(shape, all_slots, tmp_path):
    """The diffusers layout has q, k and v apart."""
    slot, name = all_slots["dit"], "transformer_blocks.0.attn1.to_k.weight"
    path = toys.save(tmp_path / "dit.safetensors", slot.theirs.state_dict() | {name: torch.zeros(shape)})
    refused(slot.load, path, name, f"should be rows of one weight, but are [[96, 96], {list(shape)}, [96, 96]]")


def test_the_other_byte_order(all_slots, tmp_path):
    path = writers.gguf(tmp_path, toys.dit().state_dict(), "Q8_0", endianess=GGUFEndian.BIG)
    refused(all_slots["dit"].load, path, "of the other byte order")


@pytest.fixture
def sharded(slot, tmp_path):
    """A folder of several files and an index; the files, in order."""
    slot.theirs.save_pretrained(tmp_path, max_shard_size="40KB" if slot.title.startswith("T5") else "400KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert slot.load(tmp_path)
    return tmp_path, files


def test_a_missing_shard(slot, sharded):
    folder, files = sharded
    files[1].unlink()
    refused(slot.load, folder, files[1].name, "missing")


def test_a_damaged_shard(slot, sharded):
    folder, files = sharded
    files[1].write_bytes(files[1].read_bytes()[:-100])
    refused(slot.load, folder, CUT, name=str(files[1]))


def test_an_index_that_names_a_file_elsewhere(slot, sharded, tmp_path_factory):
    folder, files = sharded
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    files[1].rename(elsewhere / files[1].name)
    (index,) = folder.glob("*.index.json")
    for name in (f"../{elsewhere.name}/{files[1].name}", str(elsewhere / files[1].name)):
        index.write_text(index.read_text().replace(files[1].name, name))
        refused(slot.load, folder, files[1].name)
        index.write_text(index.read_text().replace(name, files[1].name))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "\x00"])
def test_an_index_that_is_none(content, slot, sharded):
    folder, _ = sharded
    (index,) = folder.glob("*.index.json")
    index.write_text(content)
    refused(slot.load, folder, "index", name=str(index))


def test_a_tensor_in_two_shards(all_slots, tmp_path):
    slot = all_slots["dit"]
    slot.theirs.save_pretrained(tmp_path, max_shard_size="400KB")
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    with safe_open(first, "pt") as a, safe_open(second, "pt") as b:
        name, *_ = a.keys()
        twice = {n: b.get_tensor(n) for n in b.keys()} | {name: a.get_tensor(name)}  # noqa: SIM118 (not a dict)
    toys.save(second, twice)
    refused(slot.load, tmp_path, f"has tensors that another part has too ({name})", name=str(second))
