"""Models of which ComfyUI keeps a part off the device, since memory is short: the results are those of whole ones.

On a GPU (MOCHI_TEST_GPU) ComfyUI decides so itself, told of little free memory. On a CPU, where a model is always
whole, it is told how much to load.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import pytest
import torch
from exact import relative_error
from safetensors.torch import save_file

TINY = "tiny (built in)"
PART = 0.5


@pytest.fixture(scope="module")
def encode(call):
    (clip,) = call("MochiParallelLoadT5", file=TINY, dtype="float32", device="default")
    return lambda prompt: call("MochiParallelTextEncode", clip=clip, prompt=prompt)[0]


@pytest.fixture(scope="module")
def denoiser(call):
    return call("MochiParallelLoadDiT", file=TINY, dtype="float32")[0]


@pytest.fixture(scope="module")
def with_lora(call, denoiser, small):
    """Of two layers, of which one or the other is off the device."""
    torch.manual_seed(5)
    weights = {}
    for name in ("blocks.0.mlp_x.w1", "blocks.4.mlp_x.w1"):
        out, into = denoiser.model.diffusion_model.get_submodule(name).weight.shape
        weights |= {f"{name}.lora_A": torch.randn(2, into) * 0.1, f"{name}.lora_B": torch.randn(out, 2) * 0.1}
    (small.models / "loras").mkdir(exist_ok=True)
    save_file(weights, small.models / "loras" / "partly.safetensors")
    return call("LoraLoaderModelOnly", model=denoiser, lora_name="partly.safetensors", strength_model=1.0)[0]


@pytest.fixture
def part_of(monkeypatch) -> Callable[..., Any]:
    """`with part_of(patcher):` that model is loaded anew, half of it."""

    @contextmanager
    def loaded(patcher) -> Iterator[None]:
        mm.unload_all_models()
        room = int(PART * patcher.model_size())

        def little_free(device=None, torch_free_too=False):
            free = mm.minimum_inference_memory() + room - patcher.loaded_size()
            return (free, free) if torch_free_too else free

        with monkeypatch.context() as patch:
            if mm.is_device_cpu(patcher.load_device):
                load = mm.LoadedModel.model_load
                patch.setattr(mm.LoadedModel, "model_load", lambda model, _, **options: load(model, room, **options))
            else:
                patch.setattr(mm, "get_free_memory", little_free)
            yield
            assert 0 < patcher.loaded_size() < patcher.model_size() and patcher.model.model_lowvram
        mm.unload_all_models()

    return loaded


@pytest.mark.parametrize("sampler", ["k_sampler", "mochi_sampler"])
def test_denoiser(request, record_property, denoiser, part_of, sampler):
    sample = request.getfixturevalue(sampler)
    mm.unload_all_models()
    whole = sample(denoiser)
    assert not denoiser.model.model_lowvram
    with part_of(denoiser):
        part = sample(denoiser)
        record_property("loaded", denoiser.loaded_size() / denoiser.model_size())
    record_property("error", relative_error(part, whole))
    assert relative_error(part, whole) < 1e-6


def test_lora(record_property, denoiser, with_lora, part_of, mochi_sampler):
    """A weight that is off the device is patched as it comes."""
    mm.unload_all_models()
    plain, whole = mochi_sampler(denoiser), mochi_sampler(with_lora)
    assert relative_error(whole, plain) > 1e-2
    with part_of(with_lora):
        part = mochi_sampler(with_lora)
    record_property("error", relative_error(part, whole))
    assert relative_error(part, whole) < 1e-4
    mm.unload_all_models()
    assert relative_error(mochi_sampler(denoiser), plain) == 0


def test_decoder(record_property, call, part_of):
    (vae,) = call("MochiParallelLoadVAE", file=TINY, encoder_file="in the file itself", dtype="float32")
    samples = {"samples": torch.randn(1, 12, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
    mm.unload_all_models()
    (whole,) = call("MochiParallelVAEDecode", vae=vae, samples=samples)
    with part_of(vae.patcher):
        (part,) = call("MochiParallelVAEDecode", vae=vae, samples=samples)
        record_property("loaded", vae.patcher.loaded_size() / vae.patcher.model_size())
    record_property("error", relative_error(part, whole))
    assert relative_error(part, whole) < 1e-6
