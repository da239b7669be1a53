"""Attention by other libraries, which torch stands in for: layouts, what is refused and why."""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from mochi.config import DiTConfig
from mochi.dit import AsymmDiT
from mochi.dit.attention import use_attention
from mochi.dit.backends import ATTENTIONS, LIBRARIES, attention_named, sdpa
from mochi.errors import MochiError
from tests.exact import relative_error
from tests.random_weights import randomised

CONFIG = DiTConfig(depth=2, num_heads=2, hidden_x=32, hidden_y=16, mlp_x=64, mlp_y=32, text_width=32, text_length=16)
HOPPER = (9, 0)


def of_tokens_first(q, k, v):
    return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, **_):
    assert not causal and not dropout_p
    return of_tokens_first(q, k, v)


def flash3_func(q, k, v, softmax_scale=None, causal=False, **_):
    assert not causal
    return of_tokens_first(q, k, v), torch.zeros(())


def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, **_):
    assert not is_causal
    return of_tokens_first(q, k, v) if tensor_layout == "NHD" else F.scaled_dot_product_attention(q, k, v)


FUNCTIONS = {"flash2": flash_attn_func, "flash3": flash3_func, "sage": sageattn}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """All libraries, and a GPU of the given capability."""

    def install(capability: tuple[int, int] = HOPPER) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        for name, library in LIBRARIES.items():
            module = ModuleType(library.module)
            module.__spec__ = object()
            setattr(module, "sageattn" if name == "sage" else "flash_attn_func", FUNCTIONS[name])
            monkeypatch.setitem(sys.modules, library.module, module)

    return install


@torch.inference_mode()
@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_library_gives_the_same_model(installed, name):
    installed()
    model = randomised(AsymmDiT(CONFIG), 0)
    z, sigma = torch.randn(2, 12, 2, 4, 6), torch.tensor([0.3, 0.7])
    text = model.encode_text(torch.randn(2, 16, 32), torch.arange(16) < torch.tensor([[16], [5]]))
    expected = model(z, sigma, text)
    attend = attention_named(name, "cuda", torch.bfloat16, 16)
    calls = []
    use_attention(model.blocks, lambda *qkv: calls.append(1) or attend(*qkv))
    assert relative_error(model(z, sigma, text), expected) < 1e-6
    assert len(calls) == 2 * CONFIG.depth  # samples with unequal prompts go one by one


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_is_not_installed_is_named(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: HOPPER)
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(MochiError, match=r"not installed: .+, or choose sdpa"):
        attention_named(name, "cuda:0", torch.bfloat16)


def test_what_is_broken_is_refused(installed, monkeypatch):
    installed()
    monkeypatch.delattr(sys.modules["flash_attn"], "flash_attn_func")
    with pytest.raises(MochiError, match="cannot be loaded"):
        attention_named("flash2", "cuda:0", torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "device", "dtype", "width", "capability", "reason"),
    [
        ("flash2", "cpu", torch.bfloat16, 128, HOPPER, "runs on NVIDIA GPUs, not on cpu"),
        ("sage", "cuda", torch.float32, 128, HOPPER, "not in float32"),
        ("flash2", "cuda", torch.bfloat16, 128, (7, 5), "capability 8.0 or more, but that of cuda is 7.5"),
        ("flash3", "cuda", torch.bfloat16, 128, (8, 9), "9.0 or more and below 10.0"),
        ("flash3", "cuda", torch.bfloat16, 128, (12, 0), "below 10.0"),
        ("sage", "cuda", torch.float16, 256, HOPPER, "heads of 128 channels at most"),
        ("flash2", "cuda", torch.float16, 100, HOPPER, "a multiple of 8, not 100"),
    ],
)
def test_what_does_not_fit_is_refused(installed, name, device, dtype, width, capability, reason):
    installed(capability)
    with pytest.raises(MochiError, match=reason) as error:
        attention_named(name, device, dtype, width)
    assert "choose sdpa" in str(error.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(MochiError, match="must be one of sdpa, flash2, flash3, sage"):
        attention_named("fast", "cpu", torch.float32)


def test_sdpa_is_everywhere():
    assert attention_named("sdpa", "cpu", torch.float32, 7) is sdpa
