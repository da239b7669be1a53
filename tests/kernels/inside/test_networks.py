"""The networks with every kernel in its formula's place, called as on CUDA, by way of torch's dispatcher."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

import mochi.vae.stream
from mochi.checkpoint import load_decoder, load_dit, load_encoder
from mochi.config import TINY_WEIGHTS
from mochi.dit import formulas, heads
from mochi.kernels import dispatch
from mochi.quant import Float8, Ggml, QuantLinear, float8, ggml, quant_linears, rows
from mochi.quant.ggml import FORMATS
from mochi.vae import norm
from tests.exact import relative_error

MODULES = heads, formulas, float8, ggml, rows, norm
FORMULAS = [f for module in MODULES for f in vars(module).values() if hasattr(f, "launcher")]
USUAL = Float8(torch.float8_e4m3fn, 1e-3)


@pytest.fixture
def launched(monkeypatch) -> Iterator[set[str]]:
    """Names of the kernels that run, on the CPU, as if it were a CUDA device that multiplies in float8."""
    names: set[str] = set()
    library = torch.library.Library("mochi_kernels", "IMPL")

    def watched(formula):
        def run(*args):
            names.add(formula.__name__)
            return formula.launcher(*args)

        return run

    for formula in set(FORMULAS):
        library.impl(formula.__name__, watched(formula), "CPU", allow_override=True)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    for module in (dispatch, mochi.vae.stream):
        monkeypatch.setattr(module, "has_kernels", lambda *_: True)
    yield names
    library._destroy()
    assert not dispatch.failed_kernels()


def plainly(compute):
    with pytest.MonkeyPatch.context() as patch:
        for module in (dispatch, mochi.vae.stream):
            patch.setattr(module, "has_kernels", lambda *_: False)
        return compute()


def is_the_formulas(compute, bound: float) -> None:
    with torch.inference_mode():
        assert relative_error(compute(), plainly(compute)) < bound


def dit_pass() -> Tensor:
    network = load_dit(TINY_WEIGHTS / "dit.safetensors", torch.float32)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 12, 1, 4, 6, generator=generator)
    features = torch.randn(2, 256, 128, generator=generator)
    text = network.encode_text(features, torch.arange(256)[None] < torch.tensor([[5], [0]]))
    return network(z, torch.tensor([0.7, 0.7]), text)


def test_a_pass_of_the_denoiser(launched):
    is_the_formulas(dit_pass, 1e-5)
    assert launched == {"modulated_rms_norm", "gated_residual_norm", "gated_residual", "swiglu", "joint_heads"}


def test_a_pass_whose_layers_take_quantised_rows(launched, monkeypatch):
    """In bfloat16; the plain pass quantises by rows too, so that rounding is all that differs."""
    monkeypatch.setattr(float8, "has_row_products", lambda device: True)
    network = load_dit(TINY_WEIGHTS / "dit.safetensors", torch.float32).to(torch.bfloat16)
    network.pos_frequencies.data = network.pos_frequencies.data.float()
    quant, state = Float8(torch.float8_e4m3fn, 1e-3, fast=True), network.state_dict()
    quantised = {k: quant.quantize(w) for k, w in state.items() if k.startswith("blocks.") and w.ndim == 2}
    quant_linears(network, dict.fromkeys(quantised, quant))
    network.load_state_dict({**state, **quantised})
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 12, 1, 4, 6, generator=generator).bfloat16()
    features = torch.randn(1, 256, 128, generator=generator).bfloat16()
    text = network.encode_text(features, torch.arange(256)[None] < 5)
    is_the_formulas(lambda: network(z, torch.tensor([0.7]), text).float(), 0.05)
    assert {"modulated_rms_norm_rows", "gated_residual_norm_rows", "swiglu_rows", "quantize_rows"} <= launched


def test_a_video_there_and_back(launched):
    video = torch.rand(1, 3, 7, 16, 24, generator=torch.Generator().manual_seed(0))
    encoder, decoder = (
        load(TINY_WEIGHTS / f"{name}.safetensors", torch.float32)
        for name, load in (("encoder", load_encoder), ("decoder", load_decoder))
    )
    is_the_formulas(lambda: torch.cat(list(decoder.stream(encoder.in_pieces(video).mean)), 2), 1e-4)
    assert launched == {"frame_statistics", "normalise"}


@pytest.mark.parametrize("quant", [*map(Ggml, FORMATS), USUAL], ids=lambda quant: quant.title)
def test_a_quantised_layer(launched, quant):
    layer = QuantLinear(512, 8, False, quant)
    if quant is USUAL:
        layer.weight.data = quant.quantize(torch.randn(8, 512) / 10)
    else:
        # Blocks of small numbers: float16 steps of any bytes could be infinite.
        layer.weight.data = torch.randint(0, 20, layer.weight.shape, dtype=torch.int8)
    is_the_formulas(lambda: layer(torch.ones(2, 512)), 1e-6)
    assert launched == {"dequantize_scaled" if quant is USUAL else "dequantize_blocks"}
