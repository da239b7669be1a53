"""Quantised weights on CUDA: every format of GGUF and float8 is dequantised to the values of the CPU."""

import pytest
import torch

from mochi.checkpoint import load_dit
from mochi.quant import QuantLinear, use_float8_products
from tests.checkpoint import toys
from tests.checkpoint.writers import FLOAT8S, GGUFS, WIDE_GGUFS
from tests.exact import relative_error

WRITERS = {**GGUFS, **WIDE_GGUFS, **FLOAT8S}
CASES = [*((name, False) for name in WRITERS), *((name, True) for name in FLOAT8S)]


@pytest.mark.parametrize(("quant", "fast"), CASES, ids=lambda case: {True: "fast", False: "exact"}.get(case, case))
def test_computes_what_the_cpu_does(cuda, tmp_path, quant, fast):
    config = toys.WIDE if quant in WIDE_GGUFS else toys.DIT
    file = WRITERS[quant](tmp_path, toys.dit(config).state_dict())
    on_cpu, on_cuda = (load_dit(file, device=device, compute=torch.float32) for device in ("cpu", "cuda"))
    quants = [module.quant for module in on_cuda.modules() if isinstance(module, QuantLinear)]
    assert quants
    if fast:
        use_float8_products(on_cpu)
        use_float8_products(on_cuda)
    cuda.ledger.take()
    found = toys.output(on_cuda, device="cuda")
    # A rounding that tips an activation over to the next float8 number moves it by 6 %.
    assert relative_error(found, toys.output(on_cpu)) <= (2e-2 if fast else 1e-5)
    if fast and any(one.dtype == torch.float8_e4m3fn for one in quants):
        assert any(launch.name.startswith("_scaled_mm") for launch in cuda.ledger.launches)
