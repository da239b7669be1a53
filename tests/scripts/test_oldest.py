"""The environment with the oldest torch that is supported."""

from mochi.parallel.settings import OLDEST_TORCH
from scripts.test_oldest import TORCH, wanted


def test_has_the_oldest_torch_and_no_other():
    assert f"torch=={'.'.join(map(str, OLDEST_TORCH))}.*" == TORCH
    assert [line for line in wanted() if line.startswith("torch")] == [TORCH]
    assert {"safetensors", "pytest", "hypothesis", "diffusers"} <= {line.partition(">")[0] for line in wanted()}
