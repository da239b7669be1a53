"""Settings for all tests. Property tests run without a deadline: machines that test are slow and shared."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "tests",
    deadline=None,
    max_examples=25,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking an example of a whole model takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.register_profile("ci", settings.get_profile("tests"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "tests")

# Where tests start processes, compile, train or measure: `make quick` leaves them out.
SLOW = (
    *("batch/test_workers.py", "benchmarks", "browser", "cli", "cluster", "cuda", "kernels", "parallel", "tiny", "ui"),
    *("checkpoint/test_mutations.py", "dit/test_compile.py", "test_memory.py", "train"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `slow` what lies in SLOW."""
    slow = [Path(__file__).parent / place for place in SLOW]
    for item in items:
        if any(place in (item.path, *item.path.parents) for place in slow):
            item.add_marker(pytest.mark.slow)


TOGETHER = "tests/host/mixed"
"""A folder whose tests stay in one process, where a table is made of them all. Others are shared out file by file."""


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return TOGETHER if file.startswith(TOGETHER) else file

    return ByFile(config, log)


# Code that inductor compiled for other vectors than these would be taken from its cache all the same.
vectors = os.environ.get("ATEN_CPU_CAPABILITY", "all")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / f"torchinductor-{vectors}"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
