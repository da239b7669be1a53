"""When a kernel takes a formula's place, and what happens where it cannot. Nothing here needs a GPU."""

import logging
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mochi.kernels import dispatch, without_kernels


@dispatch.formula("nowhere:missing")
def doubled(x: Tensor, times: float = 2.0) -> Tensor:
    return x * times


@dispatch.formula("nowhere:missing", mutates=["out"])
def copied(x: Tensor, out: Tensor) -> None:
    out.copy_(x)


class Seen(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(str(operation))
        return operation(*args, **(kwargs or {}))


def names_of(run) -> list[str]:
    with Seen() as seen:
        run()
    return seen.names


@pytest.fixture
def works(monkeypatch):
    """A fresh state, as if Triton were there and nothing had failed yet."""
    monkeypatch.setattr(dispatch, "_state", {"off": False})
    monkeypatch.setattr(dispatch, "_failed", set())
    monkeypatch.setattr(dispatch, "_is_there", lambda: True)


def test_on_a_cpu_it_is_plain_torch(works):
    x = torch.ones(2)
    assert names_of(lambda: doubled(x)) == ["aten.mul.Tensor"]
    assert torch.equal(doubled(x, 3.0), torch.full((2,), 3.0))


def test_on_cuda_it_is_one_operation(works):
    with FakeTensorMode():
        x, out = torch.empty(2, device="cuda"), torch.empty(2, device="cuda")
        names = names_of(lambda: (doubled(x), copied(x, out)))
    assert names == ["mochi_kernels.doubled.default", "mochi_kernels.copied.default"]


def test_operators_compute_what_the_formulas_do():
    x, out = torch.randn(3), torch.zeros(3)
    assert torch.equal(torch.ops.mochi_kernels.doubled(x, 2.0), doubled(x))
    torch.ops.mochi_kernels.copied(x, out)
    assert torch.equal(out, x)


def test_gradients_go_through_the_formula(works):
    with FakeTensorMode():
        x = torch.empty(2, device="cuda", requires_grad=True)
        assert not dispatch.has_kernels(x)
        with torch.no_grad():
            assert dispatch.has_kernels(x)


def test_kernels_can_be_left_out(works):
    with FakeTensorMode():
        x = torch.empty(2, device="cuda")
        with without_kernels():
            assert not dispatch.has_kernels(x)
        assert dispatch.has_kernels(x)


def test_compiled_code_has_the_formula_in_it(works):
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    with FakeTensorMode():
        assert dispatch.has_kernels(torch.empty(2, device="cuda"))
    torch.compile(lambda x: doubled(x), backend=keep, fullgraph=True)(torch.ones(2))
    assert [node.target.__name__ for node in graphs[0].graph.nodes if node.op == "call_function"] == ["mul"]


def test_a_kernel_that_cannot_be_built_gives_way_to_its_formula(works, caplog):
    run, other = (dispatch._on_cuda(name, "nowhere:missing", lambda x: x * 2) for name in ("doubled", "copied"))
    with caplog.at_level(logging.WARNING):
        for compute in (run, run, other):
            assert torch.equal(compute(torch.ones(2)), torch.full((2,), 2.0))
    assert len(caplog.records) == 1 and "doubled does not run here" in caplog.text
    assert dispatch.failed_kernels() == {"doubled", "copied"}


@pytest.mark.parametrize("words", ["CUDA out of memory", "Triton Error [CUDA]: out of memory"])
def test_running_out_of_memory_is_no_reason_to_give_a_kernel_up(works, monkeypatch, words):
    """torch's own error tells what to do; where there is no room for a kernel's code, the formula may still do."""

    def full(*args):
        raise (torch.OutOfMemoryError if words.startswith("CUDA") else RuntimeError)(words)

    monkeypatch.setattr(dispatch.importlib, "import_module", full)
    run = dispatch._on_cuda("doubled", "nowhere:missing", lambda x: x * 2)
    if words.startswith("CUDA"):
        with pytest.raises(torch.OutOfMemoryError):
            run(torch.ones(2))
    else:
        assert torch.equal(run(torch.ones(2)), torch.full((2,), 2.0))
    assert not dispatch.failed_kernels()


def test_a_kernel_gets_the_defaults_that_torch_leaves_out(monkeypatch):
    seen = []
    kernels = SimpleNamespace(missing=lambda *args: seen.append(args))
    monkeypatch.setattr(dispatch.importlib, "import_module", lambda *_: kernels)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    run = dispatch._on_cuda("doubled", "nowhere:missing", doubled.reference)
    x = torch.ones(2)
    for args in ((x,), (x, 2.0), (x, 3.0)):
        run(*args)
    assert [args[1] for args in seen] == [2.0, 2.0, 3.0]


def test_the_package_can_be_loaded_twice_under_different_names():
    code = """
import importlib.util, sys
import mochi.dit
spec = importlib.util.spec_from_file_location("a/pack.mochi", sys.argv[1], submodule_search_locations=[sys.argv[2]])
sys.modules["a/pack.mochi"] = second = importlib.util.module_from_spec(spec)
spec.loader.exec_module(second)
import importlib
assert importlib.import_module("a/pack.mochi.dit") is not mochi.dit
"""
    package = Path(dispatch.__file__).parents[1]
    command = [sys.executable, "-c", code, str(package / "__init__.py"), str(package)]
    done = subprocess.run(command, cwd=package.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
