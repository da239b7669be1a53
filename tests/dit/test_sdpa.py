"""Which kernel torch's attention runs: what is told of it, and what is done about an unsound one.

Without a GPU: torch's choice, the card and the versions are pretended; switches and trials are real.
"""

from dataclasses import dataclass

import pytest
import torch
from torch.backends import cuda as switches
from torch.nn.attention import SDPBackend, sdpa_kernel

import mochi.dit.sdpa as module
from mochi.dit.backends import attention_named, check_attention, describe
from mochi.dit.sdpa import sdpa, sdpa_without_cudnn
from tests.exact import relative_error

HOPPER, RTX_4090, RTX_5090 = (9, 0), (8, 9), (12, 0)
OLD, NEW = 91002, 91900
HALF = torch.bfloat16


@dataclass
class Card:
    """A GPU and what is installed for it. prefers: whether torch asks cuDNN first, whatever its version. passes: how
    cuDNN does in its trial."""

    monkeypatch: pytest.MonkeyPatch

    def put_in(
        self,
        capability: tuple[int, int],
        cudnn: int = NEW,
        prefers: bool = False,
        passes: bool = True,
        hip: bool = False,
    ) -> None:
        def choose(device: torch.device, dtype: torch.dtype, head_width: int) -> SDPBackend:
            first = prefers or (cudnn >= module.SOUND_CUDNN and capability[0] in (9, 10))
            if dtype == HALF and first and switches.cudnn_sdp_enabled():
                return SDPBackend.CUDNN_ATTENTION
            if dtype == HALF and switches.flash_sdp_enabled():
                return SDPBackend.FLASH_ATTENTION
            return SDPBackend.EFFICIENT_ATTENTION if switches.mem_efficient_sdp_enabled() else SDPBackend.MATH

        self.monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        self.monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        self.monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
        self.monkeypatch.setattr(torch.version, "hip", "6.4" if hip else None)
        self.monkeypatch.setattr(module, "_chosen", choose)
        self.monkeypatch.setattr(module, "_passes", lambda *_: passes)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    return Card(monkeypatch)


@pytest.fixture
def trial():
    """The trial of cuDNN's kernel, which forgets earlier ones."""
    module._passes.cache_clear()
    yield module._passes
    module._passes.cache_clear()


def test_cudnn_runs_on_a_hopper(card):
    card.put_in(HOPPER)
    assert attention_named("sdpa", "cuda", HALF) is sdpa
    assert describe("sdpa", "cuda", HALF) == "cuDNN 9.19.0 through sdpa"


def test_an_old_cudnn_is_named_on_a_hopper(card):
    card.put_in(HOPPER, OLD)
    assert attention_named("sdpa", "cuda:1", HALF) is sdpa
    assert describe("sdpa", "cuda:1", HALF) == (
        "FlashAttention 2 through sdpa; cuDNN 9.15.1 or later, not 9.10.2, would be faster: torch 2.11 for CUDA 13 has "
        "it (so would FlashAttention 3: flash3)"
    )


@pytest.mark.parametrize(("cudnn", "passes"), [(OLD, True), (NEW, False)])
def test_an_unsound_cudnn_is_left_out(card, cudnn, passes):
    card.put_in(HOPPER, cudnn, prefers=True, passes=passes)
    assert attention_named("sdpa", "cuda", HALF).__name__ == "sdpa_without_cudnn"
    assert describe("sdpa", "cuda", HALF).startswith("FlashAttention 2 through sdpa; cuDNN")


def test_what_a_person_switched_off_stays_off(card):
    card.put_in(HOPPER)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        assert attention_named("sdpa", "cuda", HALF) is sdpa
        told = describe("sdpa", "cuda", HALF)
    assert told.startswith("the memory-efficient kernel through sdpa; cuDNN's, which is switched off, would be faster")


@pytest.mark.parametrize(
    ("capability", "dtype", "told"),
    [
        (RTX_4090, HALF, "FlashAttention 2 through sdpa"),
        (RTX_5090, HALF, "FlashAttention 2 through sdpa"),
        (RTX_4090, torch.float32, "the memory-efficient kernel through sdpa; bfloat16 would be faster"),
        ((7, 5), torch.float32, "the memory-efficient kernel through sdpa"),
        ((10, 0), HALF, "cuDNN 9.19.0 through sdpa"),
    ],
)
def test_other_cards(card, capability, dtype, told):
    card.put_in(capability)
    assert describe("sdpa", "cuda", dtype) == told


def test_where_flash_attention_is_not_built_in(card):
    card.put_in(RTX_4090)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
        told = describe("sdpa", "cuda", HALF)
    assert told == "the memory-efficient kernel through sdpa; FlashAttention 2 (flash2) would be faster"


def test_nothing_is_advised_on_other_makers_cards(card):
    card.put_in((9, 4), OLD, hip=True)
    assert describe("sdpa", "cuda", HALF) == "FlashAttention 2 through sdpa"


def test_flash_attention_3_in_torchs_own_place(card, monkeypatch):
    card.put_in(HOPPER, OLD)
    monkeypatch.setattr(module.torch_attention, "current_flash_attention_impl", lambda: "FA3", raising=False)
    assert describe("sdpa", "cuda", HALF) == "FlashAttention 3 through sdpa"


def test_libraries_and_the_cpu_are_told():
    assert describe("flash3", "cuda", HALF) == "FlashAttention 3"
    assert describe("sdpa", "cpu", torch.float32) == "sdpa on cpu"


def test_a_check_touches_no_device(monkeypatch):
    monkeypatch.setattr(module, "_chosen", lambda *_: pytest.fail("asked a device"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_attention("sdpa", "cuda:3", HALF)


@torch.inference_mode()
def test_torch_answers_which_kernel_it_takes():
    q = torch.zeros(1, 2, 8, 16)
    assert SDPBackend(torch._fused_sdp_choice(q, q, q)) in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [16, 128])
def test_a_sound_kernel_passes_its_trial(trial, dtype, width):
    assert trial(torch.device("cpu"), dtype, width)


def no_numbers(q, k, v):
    return sdpa(q, k, v) * float("nan")


def tokens_left_out(q, k, v):
    return sdpa(q, k[:, :128], v[:, :128])


def no_plan(q, k, v):
    raise RuntimeError("No execution plans support the graph.")


@pytest.mark.parametrize("broken", [no_numbers, tokens_left_out, no_plan])
def test_a_broken_kernel_fails_its_trial(trial, monkeypatch, caplog, broken):
    monkeypatch.setattr(module, "sdpa", lambda q, k, v: (broken if q.dtype == HALF else sdpa)(q, k, v))
    assert not trial(torch.device("cpu"), HALF, 64)
    assert "another takes its place" in caplog.text


@torch.inference_mode()
def test_without_cudnn_the_same_is_computed_and_switches_stay(monkeypatch):
    q, k, v = torch.randn(3, 2, 30, 2, 8)
    ran_with, own = [], module.sdpa

    def watched(q, k, v):
        ran_with.append((switches.cudnn_sdp_enabled(), switches.flash_sdp_enabled()))
        return own(q, k, v)

    monkeypatch.setattr(module, "sdpa", watched)
    before, was_on = torch._C._get_sdp_priority_order(), switches.flash_sdp_enabled()
    switches.enable_flash_sdp(False)
    try:
        out = sdpa_without_cudnn(q, k, v)
        assert ran_with == [(False, False)]
        assert switches.cudnn_sdp_enabled() and not switches.flash_sdp_enabled()
    finally:
        switches.enable_flash_sdp(was_on)
    assert relative_error(out, own(q, k, v)) < 1e-6
    assert torch._C._get_sdp_priority_order() == before


@torch.inference_mode()
def test_both_are_taken_by_compiled_code():
    torch._dynamo.reset()
    q, k, v = torch.randn(3, 1, 30, 2, 8)
    for attend in (sdpa, torch.compiler.disable(sdpa_without_cudnn)):
        compiled = torch.compile(lambda q, k, v, attend=attend: attend(q * 2, k, v) + 1, backend="eager")
        assert relative_error(compiled(q, k, v), sdpa(q * 2, k, v) + 1) < 1e-6


@pytest.mark.cuda
@torch.inference_mode()
@pytest.mark.parametrize("tokens", [1, 128, 333])
def test_on_a_gpu(tokens):
    q, k, v = torch.randn(3, 2, tokens, 3, 128).to(HALF)
    attend = attention_named("sdpa", "cuda", HALF)
    out = attend(*(t.cuda() for t in (q, k, v)))
    assert out.flatten(2).data_ptr() == out.data_ptr()
    assert relative_error(out.float().cpu(), sdpa(*(t.float() for t in (q, k, v)))) < 1e-2
    assert describe("sdpa", "cuda", HALF).split(";")[0].endswith(" through sdpa")
