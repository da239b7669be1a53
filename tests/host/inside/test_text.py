"""Our CLIP in our nodes and ComfyUI's own, and ComfyUI's T5 in our node."""

import logging

import comfy.model_management as mm
import comfy.sd
import pytest
import torch
from comfy.supported_models_base import ClipTarget


@pytest.fixture(scope="module")
def clip(call, small):
    return call("MochiParallelLoadT5", file=small.t5, dtype="auto", device="default")[0]


@pytest.fixture(scope="module")
def core(pack, small):
    return pack.module("mochi.text").load_prompt_encoder(small.models / "text_encoders" / small.t5)


@pytest.mark.parametrize("prompt", ["a red circle moves left", "", "  \n"])
def test_equals_the_core_in_both_nodes(call, clip, core, prompt):
    features, mask = core([prompt])
    for node, name in (("MochiParallelTextEncode", "prompt"), ("CLIPTextEncode", "text")):
        (((ours, extra),),) = call(node, clip=clip, **{name: prompt})
        assert ours.shape == (1, 256, 48) and ours.dtype == torch.float32
        assert torch.equal(extra["attention_mask"].bool(), mask)
        assert torch.allclose(ours, features)
        assert extra["pooled_output"] is None
    assert mask.any() == bool(prompt.strip())


def test_weights_are_text(call, clip, core):
    (((ours, extra),),) = call("CLIPTextEncode", clip=clip, text="a (red circle:1.3)")
    features, mask = core(["a (red circle:1.3)"])
    assert torch.equal(extra["attention_mask"].bool(), mask) and torch.allclose(ours, features)


def test_long_prompt_is_cut_with_a_warning(call, clip, caplog):
    with caplog.at_level(logging.WARNING):
        (((features, extra),),) = call("MochiParallelTextEncode", clip=clip, prompt="red " * 300)
    assert features.shape[1] == 256 and extra["attention_mask"].all()
    assert "45" in caplog.text and "cut off" in caplog.text


def test_nodes_that_work_on_conditioning(call, clip):
    (a,), (b,) = (call("CLIPTextEncode", clip=clip, text=text) for text in ("a red circle", "a blue square"))
    (mixed,) = call("ConditioningAverage", conditioning_to=a, conditioning_from=b, conditioning_to_strength=0.5)
    assert torch.allclose(mixed[0][0], (a[0][0] + b[0][0]) / 2)
    (zero,) = call("ConditioningZeroOut", conditioning=a)
    assert not zero[0][0].any()


def test_clip_nodes_take_it(call, clip):
    (skipped,) = call("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)
    (((ours, _),),) = call("CLIPTextEncode", clip=skipped, text="a red circle")
    assert torch.equal(ours, call("CLIPTextEncode", clip=clip, text="a red circle")[0][0][0])
    assert all(name.startswith("t5xxl.transformer.") for name in clip.get_sd())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_can_stay_off_the_device(call, small, dtype):
    """What low memory does: a layer brings its weights along when it runs."""
    (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype=dtype, device="default")
    (((plain, _),),) = call("CLIPTextEncode", clip=clip, text="a red circle")
    other = clip.clone()
    other.patcher.force_cast_weights = True
    mm.unload_all_models()
    (((cast, _),),) = call("CLIPTextEncode", clip=other, text="a red circle")
    layers = [m for m in clip.cond_stage_model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Embedding)]
    assert layers and all(layer.comfy_cast_weights for layer in layers)
    assert torch.allclose(plain, cast, atol=1e-5)
    mm.unload_all_models()


@pytest.fixture(scope="module")
def builtin_clip(small):
    """ComfyUI's own Mochi CLIP, with its tokenizer, and a network of ours instead of the 4.7 billion parameters."""
    from comfy.text_encoders.genmo import MochiT5Tokenizer

    class Echo(torch.nn.Module):
        dtypes = {torch.float32}

        def __init__(self, device, dtype, model_options):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def reset_clip_options(self): ...

        def encode_token_weights(self, tokens):
            ids = torch.tensor([[token[0] for token in row] for row in tokens["t5xxl"]])
            weights = torch.tensor([[token[1] for token in row] for row in tokens["t5xxl"]])
            mask = (torch.cumsum(ids == 1, 1) - (ids == 1).long() == 0).long()
            return torch.stack([ids, weights], -1), None, {"attention_mask": mask}

    return comfy.sd.CLIP(ClipTarget(MochiT5Tokenizer, Echo))


def test_builtin_clip_reads_prompts_as_published(call, builtin_clip, caplog):
    encode = lambda prompt: call("MochiParallelTextEncode", clip=builtin_clip, prompt=prompt)[0][0]  # noqa: E731
    features, extra = encode("a (red:1.3) circle")
    assert (features[..., 1] == 1).all(), "weights must not be read"
    assert 0 < extra["attention_mask"].sum() < 20
    assert encode("")[1]["attention_mask"].sum() == 0
    with caplog.at_level(logging.WARNING):
        features, extra = encode("circle " * 400)
    assert features.shape[1] == 256 and features[0, 255, 0] == 1, "the last token is the end"
    assert "cut off" in caplog.text


def test_single_file_with_the_tokenizer_of_comfyui(call, pack, small):
    """T5 as one file: its sizes come from the shapes, its tokenizer from ComfyUI."""
    from safetensors.torch import save_file
    from transformers import T5Config, T5EncoderModel

    sizes = {"vocab_size": 32128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    model = T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))
    weights = {name: weight for name, weight in model.state_dict().items() if name != "encoder.embed_tokens.weight"}
    save_file(weights, small.models / "text_encoders" / "small_t5_file.safetensors")
    (clip,) = call("MochiParallelLoadT5", file="small_t5_file.safetensors", dtype="bfloat16", device="cpu")
    (((features, extra),),) = call("CLIPTextEncode", clip=clip, text="A red circle moves left.")
    assert features.shape == (1, 256, 32) and features.isfinite().all()
    assert extra["attention_mask"].sum() == 7
