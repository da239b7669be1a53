"""The file of a LoRA that was trained makes, in our loader and in ComfyUI's own, what the layers made in training."""

import pytest
import torch
from exact import relative_error


@pytest.fixture(scope="module")
def model(call, small):
    """In the dtype of the training, on whatever device."""
    return call("MochiParallelLoadDiT", file=small.dit, dtype="float32")[0]


@pytest.fixture(scope="module")
def files(pack, call, small, k_sampler):
    """`files(format, with_mlp)`: a file in the folder of LoRAs, and the latents of a MODEL with the layers in it."""
    lora, output = pack.module("mochi.train.lora"), pack.module("mochi.train.output")
    rank = pack.module("mochi.train.settings").Rank

    def write(format, with_mlp):
        sizes = rank(4, 6.0), rank(3 if with_mlp else 0, 7.0)
        (trained,) = call("MochiParallelLoadDiT", file=small.dit, dtype="float32")
        with torch.inference_mode(False), torch.no_grad():
            layers = lora.add_lora(trained.model.diffusion_model, *sizes)
            generator = torch.Generator().manual_seed(1)
            for layer in layers.values():
                for p in (layer.lora_A, layer.lora_B):
                    p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
            name = f"{format}_{with_mlp}.safetensors"
            factors = {name: (layer.lora_A, layer.lora_B) for name, layer in layers.items()}
            output.save_lora(small.models / "loras" / name, factors, *sizes, format)
        return name, k_sampler(trained)

    return write


def ours(call, model, file, strength=1.0):
    return call("MochiParallelLoadLoRA", model=model, file=file, strength=strength)[0]


def comfys(call, model, file, strength=1.0):
    return call("LoraLoaderModelOnly", model=model, lora_name=file, strength_model=strength)[0]


@pytest.mark.parametrize("with_mlp", [False, True])
@pytest.mark.parametrize("format", ["published", "diffusers"])
def test_the_file_makes_what_was_trained(call, model, files, k_sampler, caplog, format, with_mlp):
    (file, expected), plain = files(format, with_mlp), k_sampler(model)
    assert relative_error(plain, expected) > 0.05
    for loader in (ours, comfys):
        with caplog.at_level("WARNING"):
            assert relative_error(k_sampler(loader(call, model, file)), expected) < 1e-5
        assert torch.equal(k_sampler(loader(call, model, file, 0.0)), plain)
    assert "not loaded" not in caplog.text and "ERROR" not in caplog.text
