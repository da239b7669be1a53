"""Features of a text encoder in every format equal those of transformers, whose weights another library dequantised."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from gguf import MODEL_ARCH, get_tensor_name_map
from transformers import T5Config, T5EncoderModel

from mochi.quant import QuantLinear
from mochi.text import PromptEncoder, load_prompt_encoder
from tests.checkpoint import toys, writers
from tests.checkpoint.independent import values
from tests.text.conftest import CONFIG

PROMPTS = ["a red circle moves left on the black background", "blue"]
PREFIX = "text_encoders.t5xxl.transformer."
WIDE = {**CONFIG, "d_model": 256, "d_ff": 256}  # rows of 256, in which some formats have blocks

Tensors = dict[str, torch.Tensor]
LAYERS = 14  # Linear ones: q, k, v, o, wi_0, wi_1 and wo of two blocks


def llama_cpp_name(name: str) -> str:
    table = get_tensor_name_map(MODEL_ARCH.T5ENCODER, 2)
    return table.get_name(name, try_suffixes=(".weight",))


def cast(folder: Path, tensors: Tensors, dtype: torch.dtype) -> Path:
    return toys.save(folder / "cast.safetensors", {name: value.to(dtype) for name, value in tensors.items()})


def all_in_one(folder: Path, tensors: Tensors) -> Path:
    return writers.all_in_one(folder, toys.dit().state_dict(), t5=tensors)


def llama_cpp(folder: Path, tensors: Tensors, kind: str) -> Path:
    renamed = {llama_cpp_name(name): value for name, value in tensors.items()}
    return writers.gguf(folder, renamed, kind, architecture="t5encoder")


QUANTS: dict[str, Callable[[Path, Tensors], Path]] = {
    **writers.GGUFS,
    **writers.WIDE_GGUFS,
    **{f"llama.cpp {kind}": partial(llama_cpp, kind=kind) for kind in (*writers.WRITABLE, *writers.SCALES)},
    **writers.FLOAT8S,
}
del QUANTS["old scaled, prefix"]
QUANTS["old scaled, prefix"] = partial(writers.old_scaled, prefix=PREFIX)
LOSSLESS = {
    "float16": partial(cast, dtype=torch.float16),
    "bfloat16": partial(cast, dtype=torch.bfloat16),
    "float32": partial(cast, dtype=torch.float32),
    "all in one": all_in_one,
    "llama.cpp F16": partial(llama_cpp, kind="F16"),
    "GGUF BF16": partial(writers.gguf, kind="BF16"),
}


def config_of(quant: str) -> T5Config:
    sizes = WIDE if quant.split()[-1] in writers.SCALES else CONFIG
    return T5Config(vocab_size=400, **sizes, attn_implementation="eager")


def reference(config: T5Config, weights: Tensors) -> T5EncoderModel:
    """transformers' own, in float32."""
    model = T5EncoderModel(config)
    missing, surplus = model.load_state_dict({name: w.float() for name, w in weights.items()}, strict=False)
    assert missing == ["encoder.embed_tokens.weight"] and not surplus
    model.encoder.embed_tokens.weight = model.shared.weight
    return model.eval()


@torch.inference_mode()
def features(encoder: PromptEncoder, model: T5EncoderModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder's, and the model's for the same tokens."""
    found, mask = encoder(PROMPTS)
    ids = torch.stack([encoder.tokenizer(prompt).ids for prompt in PROMPTS])
    return found[mask], model(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]


@pytest.fixture
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Random weights in a format."""
    quant = request.param
    torch.manual_seed(1)
    state = T5EncoderModel(config_of(quant)).state_dict()
    del state["encoder.embed_tokens.weight"]
    return quant, {**QUANTS, **LOSSLESS}[quant](tmp_path, state)


def dequantised(quant: str, path: Path) -> Tensors:
    """The file's weights, read by others, under transformers' names."""
    found = values(path)
    if quant.startswith("llama.cpp"):
        model = T5EncoderModel(config_of(quant))
        names = {llama_cpp_name(name): name for name in model.state_dict() if "embed_tokens" not in name}
        found = {names[name]: value for name, value in found.items()}
    its = {name.removeprefix(PREFIX): value for name, value in found.items()}
    return {name: value for name, value in its.items() if name.startswith(("encoder.", "shared."))}


@pytest.mark.parametrize("written", [*QUANTS, *LOSSLESS], indirect=True)
@pytest.mark.parametrize("unpack", [False, True], ids=["packed", "unpacked while loading"])
def test_features_equal_those_of_dequantised_weights(written: tuple[str, Path], unpack: bool, folder: Path) -> None:
    quant, path = written
    encoder = load_prompt_encoder(path, folder, torch.float32 if unpack else None)
    quantised = [name for name, module in encoder.model.named_modules() if isinstance(module, QuantLinear)]
    if unpack or quant in LOSSLESS:
        assert not quantised
        assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}
    else:
        # Where rows are too short for whole blocks, the output projections of the attention are not quantised.
        assert len(quantised) == LAYERS - (2 if quant.split()[-1] in writers.SCALES and "IQ4_NL" not in quant else 0)
    found, expected = features(encoder, reference(config_of(quant), dequantised(quant, path)))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("written", ["GGUF Q4_0", "llama.cpp Q6_K", "cast all", "old scaled"], indirect=True)
def test_embeddings_are_dequantised(written: tuple[str, Path], folder: Path) -> None:
    """They are looked up, not multiplied with. A file may have them quantised all the same."""
    quant, path = written
    model = load_prompt_encoder(path, folder).model
    assert model.encoder.embed_tokens is model.shared
    assert model.shared.weight.equal(dequantised(quant, path)["shared.weight"].float())


def test_folder_of_packed_weights(folder: Path, tmp_path: Path, tensors: Tensors) -> None:
    """What a person gets who puts a smaller file into a folder of transformers."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    writers.new_scaled(tmp_path, tensors).replace(tmp_path / "model.safetensors")
    encoder = load_prompt_encoder(tmp_path)
    assert sum(isinstance(module, QuantLinear) for module in encoder.model.modules()) == LAYERS
    model = reference(T5Config(vocab_size=400, **CONFIG), values(tmp_path / "model.safetensors"))
    found, expected = features(encoder, model)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["packed", "plain"])
def test_outputs_of_the_mlps_that_float16_cannot_hold(kind, tensors, single_file):
    """Their projections are computed in float32, quantised or not, as the published encoder in float16 has it."""
    tensors = {n: v * 3e4 if n.endswith(".wo.weight") else v for n, v in tensors.items()}
    exact = encoder_of(single_file, tensors, "plain")(PROMPTS[0])[0]
    ours = encoder_of(single_file, tensors, kind, compute=torch.float16)(PROMPTS[0])[0]
    assert ((ours - exact).norm() / exact.norm()).item() < (0.1 if kind == "packed" else 0.01)


def encoder_of(file: Path, tensors: Tensors, kind: str, **options) -> PromptEncoder:
    path = file.with_name(f"{kind}.safetensors")
    toys.save(path, tensors) if kind == "plain" else shutil.move(writers.old_scaled(file.parent, tensors), path)
    return load_prompt_encoder(path, **options)
