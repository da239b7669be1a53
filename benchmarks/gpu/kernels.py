"""Each kernel of mochi/kernels, as the networks call it, beside its formula computed on the CPU.

An operator has the formula itself as its implementation on a CPU: so whatever calls it is caught, and computed there
once more.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mochi.checkpoint import load_decoder, load_encoder
from mochi.config import TINY_WEIGHTS
from mochi.dit import PLAIN, AsymmDiT, BlockRunner
from mochi.kernels import failed_kernels
from mochi.quant import Float8, Ggml, QuantFormat, QuantLinear, quant_linears
from mochi.quant.ggml import FORMATS
from tests.exact import relative_error

from .correctness import dit_pass
from .measuring import judged
from .quants import quantisable, with_weights
from .setting import TOY, Forward, Part, Setting


def section(s: Setting) -> Iterator[Part]:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        yield f"denoiser, {name}", partial(calls, partial(denoiser, s, dtype))
        yield f"VAE, {name}", partial(calls, partial(vae, s, dtype))
    yield "float8 products", lambda: calls(lambda: float8(s))
    for name, runner in {"whole frames": PLAIN, "cut frames": Cut()}.items():
        yield f"levels of {name}", partial(calls, partial(levels, s, runner))
        yield f"levels of {name}, float8 products", partial(calls, partial(levels, s, runner, quantized=True))
    for kind in (torch.float8_e4m3fn, torch.float8_e5m2):
        yield str(kind).removeprefix("torch."), partial(calls, partial(dequantised, s, Float8(kind, 1e-3)))
    calibrated = Float8(torch.float8_e4m3fn, 1e-3, input_scale=0.02, fast=True)
    yield "float8 products, calibrated", lambda: calls(lambda: dequantised(s, calibrated))
    for kind in FORMATS:
        yield kind, partial(calls, partial(dequantised, s, Ggml(kind)))


def denoiser(s: Setting, dtype: torch.dtype) -> None:
    """Prompts of equal and of different length go different ways."""
    for lengths in ((9, 9), (9, 0)):
        dit_pass(s.device, dtype, lengths)


def vae(s: Setting, dtype: torch.dtype) -> None:
    files = TINY_WEIGHTS / "encoder.safetensors", TINY_WEIGHTS / "decoder.safetensors"
    video = torch.rand(1, 3, 13, 32, 48, device=s.device, dtype=dtype)
    latents = load_encoder(files[0], dtype, s.device).in_pieces(video).mean
    list(load_decoder(files[1], dtype, s.device).stream(latents))


def float8(s: Setting) -> None:
    """A pass of a toy whose blocks are multiplied in float8."""
    Forward(Setting(s.device, small=True), toy(s, quantized=True))()


def toy(s: Setting, quantized: bool) -> AsymmDiT:
    model = AsymmDiT(TOY, dtype=s.dtype, device=s.device)
    if quantized:
        quant_linears(model, dict.fromkeys(quantisable(model), Float8(torch.float8_e4m3fn, 1e-3, fast=True)))
    return with_weights(model)


class Cut(BlockRunner):
    """Hands the blocks all tokens but the first 3, as a rank has them that begins within a frame."""

    FIRST = 3

    def enter(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.FIRST :]

    def first_token(self, tokens: int) -> int:
        return self.FIRST

    def leave(self, tokens: Tensor) -> Tensor:
        return F.pad(tokens, (0, 0, self.FIRST, 0))


def levels(s: Setting, runner: BlockRunner, quantized: bool = False) -> None:
    """A pass of a toy whose frames have noise levels of their own."""
    run = Forward(Setting(s.device, small=True), toy(s, quantized), runner=runner, levels=True)
    run.rotary = run.rotary[runner.first_token(len(run.rotary)) :]
    run()


def dequantised(s: Setting, quant: QuantFormat) -> None:
    layer = with_weights(QuantLinear(512, 256, False, quant, device=s.device))
    layer(s.random(3, 512))


def calls(work: Callable[[], Any]) -> dict[str, Any]:
    """Every operator that is called in `work`, by name and dtypes: how far it is from its formula."""
    with Compared() as compared:
        work()
    return compared.found


NOT_BUILT = {"failed": "the kernel did not run, and its formula did", "where": "see warnings"}


class Compared(TorchDispatchMode):
    """Runs each of our operators a second time, on the CPU, the first time that it comes with such dtypes."""

    def __init__(self):
        super().__init__()
        self.found: dict[str, Any] = {}

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not operator.namespace.endswith("mochi_kernels"):
            return operator(*args, **kwargs)
        name = f"{operator._opname} {', '.join(_dtypes((args, kwargs)))}"
        if name in self.found:
            return operator(*args, **kwargs)
        here = tree_map_only(Tensor, lambda t: t.to("cpu", copy=True), (args, kwargs))
        out = operator(*args, **kwargs)
        right = operator(*here[0], **here[1])
        # What is written into counts as much as what is returned.
        pairs = zip(_tensors((out, args, kwargs)), _tensors((right, *here)), strict=True)
        failed = operator._opname in failed_kernels()
        self.found[name] = NOT_BUILT if failed else judged(*_worst(pairs, operator._opname))
        return out


def _worst(pairs: Iterator[tuple[Tensor, Tensor]], operator: str) -> tuple[float, float]:
    """The error that is the largest beside its bound, and that bound."""
    errors = [(_error(_numbers(a), _numbers(b)), precision(a.dtype, operator)) for a, b in pairs]
    return max(errors, key=lambda pair: pair[0] / pair[1])


def _error(found: Tensor, right: Tensor) -> float:
    return 0.0 if torch.equal(found, right) else relative_error(found, right)  # all of them can be zero


def precision(dtype: torch.dtype, operator: str) -> float:
    """The relative error that an output of an operator may have beside its formula's: one rounding of either side.

    float32 is summed in another order; bytes are to be the same. Where a formula that is rounded before is quantized,
    the scale of a row is one of its values, in bfloat16.
    """
    if not dtype.is_floating_point:
        return torch.finfo(torch.float64).eps
    if dtype.itemsize >= 4:
        return torch.finfo(torch.bfloat16).eps if operator.endswith("_rows") and operator != "quantize_rows" else 1e-5
    return torch.finfo(dtype).eps / 2


def _numbers(t: Tensor) -> Tensor:
    """What is in memory that nobody has written yet can be anything, on both sides alike."""
    return t.detach().cpu().to(torch.float64).nan_to_num(0.0, 0.0, 0.0)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _dtypes(tree: Any) -> list[str]:
    return [str(t.dtype).removeprefix("torch.") for t in _tensors(tree)]
