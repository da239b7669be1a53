"""The acceptance kit for one GPU, run on a CPU at toy sizes, and what it does when sections fail, hang or die."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import correctness, kernels, measuring, setting, wheels
from benchmarks.gpu.__main__ import SECTIONS, parser
from benchmarks.gpu.results import is_failed, verdicts
from benchmarks.gpu.running import Runner
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.worker import LOST
from mochi.config import TINY
from mochi.dit.runner import BlockRunner
from mochi.kernels import formula
from mochi.vae import Decoder
from mochi.vae.layers import in_order

ROOT = Path(__file__).parents[2]
HERE = Setting(torch.device("cpu"), small=True)

ONE = "yield 'one', lambda: {'ms': 1.0}\n    "
LAST = "yield 'last', lambda: {'ms': 3.0}"
BREAKS = "from benchmarks.gpu import worker\n    " + ONE
SECTION_FILES = {
    "failing": ONE + "yield 'two', lambda: 1 / 0\n    " + LAST,
    "hanging": ONE + "yield 'two', lambda: time.sleep(60)",
    "dying": ONE + "yield 'two', lambda: os._exit(7)",
    "broken": ONE + "raise ValueError('no such card')",
    "warning": "yield 'one', lambda: logging.getLogger('mochi').warning('slower')",
    "losing": BREAKS + "yield 'two', lambda: setattr(worker, 'synchronize', None)\n    " + LAST,
    "slow": "yield 'one', lambda: time.sleep(1)\n    yield 'two', lambda: {'ms': 1.0}",
}


def run_kit(*options: str, **environment: str) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--small", "--device", "cpu", *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return {line["section"]: line for line in lines}


def skipped(found: Any, path: str = "") -> list[str]:
    if not isinstance(found, Mapping):
        return []
    here = [path] if "skipped" in found else []
    return here + [place for name, inner in found.items() for place in skipped(inner, f"{path} / {name}")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_section_has_figures(tmp_path):
    lines = run_kit("--budget", "800", "--out", str(tmp_path))
    assert list(lines) == list(SECTIONS)
    for name, line in lines.items():
        assert line["found"] and not is_failed(line), line
        assert all(verdicts(line["found"]).values()), line
        assert {place for place in skipped(line) if "ComfyUI" not in place} == set(), name
    (file,) = tmp_path.glob("*-CPU-torch*.json")
    assert json.loads(file.read_text())["lines"] == lines


@pytest.mark.slow
def test_a_bare_machine_is_told_what_is_left_out(tmp_path):
    """Neither video nor GGUF files nor peers are needed to measure."""
    hidden = "import sys; sys.modules.update(dict.fromkeys(('av', 'gguf', 'diffusers')))"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    lines = run_kit("--only", "attention", "peers", PYTHONPATH=str(tmp_path), COMFYUI_PATH=str(tmp_path))
    assert not any(map(is_failed, lines.values())), lines
    peers = lines["peers"]["found"]
    without = {name for name, figures in peers.items() if "skipped" in figures}
    assert without == {name for name in peers if "ours" not in name} and len(without) == 4
    sections = "; ".join(f"import benchmarks.gpu.{name}" for name in SECTIONS)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", sections], cwd=ROOT, env=environment, check=True)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Of sections that go wrong."""
    root = tmp_path_factory.mktemp("sections")
    (root / "going_wrong").mkdir()
    for name, body in SECTION_FILES.items():
        source = f"import logging, os, time\n\n\ndef section(setting):\n    {body}\n"
        (root / "going_wrong" / f"{name}.py").write_text(source)
    sys.path.insert(0, str(root))
    with Runner(HERE, "going_wrong") as runner:
        yield runner
    sys.path.remove(str(root))


def test_a_part_that_fails_does_not_stop_the_next(runner):
    found = runner.run("failing", 30)["found"]
    assert found["one"]["ms"] == 1 and found["last"]["ms"] == 3
    assert "ZeroDivisionError" in found["two"]["failed"] and "1 / 0" in found["two"]["where"]


@pytest.mark.parametrize(("name", "says"), [("dying", "ended (7)"), ("broken", "ValueError: no such card")])
def test_a_section_that_ends_early_keeps_what_it_found(runner, name, says):
    line = runner.run(name, 30)
    assert line["found"]["one"]["ms"] == 1 and says in line["failed"]
    assert runner.run("warning", 30)["warnings"] == ["mochi: slower"]  # the next one has a new process


def test_a_device_that_does_not_answer_gets_a_new_process(runner):
    """What failed is told, what was measured is kept, and what follows is measured there."""
    line = runner.run("losing", 60)
    assert list(line["found"]) == ["one", "two", "last"]
    assert line["found"]["last"]["ms"] == 3 and is_failed(line["found"]["two"])
    assert line[LOST] == ["two"] and "failed" not in line


def test_a_section_that_hangs_is_ended(runner, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.running.GRACE", 1.0)
    runner.run("warning", 30)
    line = runner.run("hanging", 1)
    assert line["found"]["one"]["ms"] == 1 and line["failed"].startswith("no answer within")
    assert "hanging.py" in line["where"] and line["seconds"] < 10


def test_parts_beyond_the_time_are_left_out(runner):
    line = runner.run("slow", 0.5)
    assert list(line["found"]) == ["one"] and "two" in line["skipped"]


def test_what_does_not_fit_the_budget_says_so():
    lines = run_kit("--budget", "1", "--only", "step", "groups")
    assert all("s are left" in line["skipped"] for line in lines.values()) and len(lines) == 2


_calls = []


@formula("nowhere:nothing")
def half_of(x: Tensor) -> Tensor:
    return x / 2


@formula("nowhere:nothing", mutates=("x",))
def differs_each_time(x: Tensor) -> None:
    _calls.append(1)
    x.mul_(len(_calls))


@formula("nowhere:nothing")
def gives_up(x: Tensor) -> Tensor:
    return x.clone()


def test_a_kernel_that_cannot_be_built_is_a_failure(monkeypatch):
    monkeypatch.setattr(kernels, "failed_kernels", lambda: {"gives_up"})
    ours, x = torch.ops.mochi_kernels, torch.ones(4)
    found = kernels.calls(lambda: [ours.gives_up(x), ours.half_of(x)])
    assert is_failed(found["gives_up float32"]) and found["half_of float32"]["ok"]


def test_operators_are_held_against_their_formulas():
    ours, x = torch.ops.mochi_kernels, torch.ones(4)
    found = kernels.calls(lambda: [ours.half_of(x), ours.half_of(x.bfloat16()), ours.differs_each_time(x)])
    assert {name: figures["ok"] for name, figures in found.items()} == {
        "half_of float32": True,
        "half_of bfloat16": True,
        "differs_each_time float32": False,
    }


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4>>", "attention"),
        ("nvjet_tst_256x128_64x4_2x1_v_bz_coopA_NNT", "products"),
        ("aten::mm", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "products"),
        ("sm90_xmma_fprop_implicit_gemm_indexed_bf16bf16_bf16f32", "convolutions"),
        ("triton_poi_fused_mul_silu_0", "compiled"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "elementwise"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::RowwiseMomentsCUDAKernel<float>", "norms"),
        ("ncclDevKernel_AllGather_RING_LL", "communication"),
    ],
)
def test_kernels_have_classes(kernel, name):
    assert measuring.class_of(kernel) == name


def test_our_own_kernels_are_known_by_their_names(tmp_path, monkeypatch):
    (tmp_path / "norm.py").write_text("@triton.jit\ndef _norm(x):\n    pass\n\n\ndef launch(x):\n    pass\n")
    monkeypatch.setattr(measuring.kernels, "__file__", str(tmp_path / "__init__.py"))
    measuring.our_kernels.cache_clear()
    try:
        assert measuring.our_kernels() == {"_norm"} and measuring.class_of("_norm") == "ours"
    finally:
        measuring.our_kernels.cache_clear()


def test_profiles_count_what_runs():
    a, b = torch.randn(64, 64), torch.randn(64, 64)
    profile = measuring.profiled(lambda: (a @ b).relu(), HERE.device)
    assert profile["launches by class"]["products"] >= 1
    assert sum(profile["ms by class"].values()) == pytest.approx(profile["kernels ms"])
    assert measuring.products_alone(profile) < profile["kernels ms"]


def test_a_profiler_that_fails_costs_the_profile_alone(monkeypatch):
    def raises(**_: Any) -> None:
        raise RuntimeError("CUPTI is not there")

    monkeypatch.setattr(measuring, "profile", raises)
    found = measuring.explained({"ms": 2.0}, lambda: None, HERE.device)
    assert found["ms"] == 2 and found["limit ms"] is None and found["beyond limit x"] is None
    assert found["profile"] == {"no profile": "RuntimeError: CUPTI is not there"}


def test_a_profile_without_kernels_has_no_limit():
    found = measuring.explained({"ms": 2.0}, lambda: None, torch.device("cpu"))
    assert "no profile" in found["profile"] and found["beyond limit x"] is None
    added = measuring.explained({"ms": 2.0}, lambda: torch.ones(4) + 1, HERE.device)
    assert added["profile"]["launches"] and added["beyond limit x"] is None


@pytest.mark.parametrize("name", ["Stream Sync", "Stream Wait Event", "Event Sync", "Event Record", "Context Sync"])
def test_waiting_is_no_kernel(name):
    assert measuring._NO_KERNEL.match(name)


def test_figures_without_some_kernel_are_a_failure(monkeypatch):
    assert not is_failed(measuring.all_kernels_ran())
    monkeypatch.setattr(measuring.kernels, "failed_kernels", lambda: {"b", "a"})
    assert measuring.all_kernels_ran()["failed"] == "plain torch took the place of a, b"


def test_a_decoder_is_as_it_is_loaded_on_a_gpu(monkeypatch):
    """Weights in the memory format of activations; and it takes as many latent frames at a time as in the pipeline."""
    monkeypatch.setattr(setting, "in_order", lambda network, device: in_order(network, "cuda"))
    weights = [p for p in HERE.made(Decoder, HERE.decoder).parameters() if p.ndim == 5]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in weights)
    monkeypatch.setattr(setting, "memory_free", lambda device: 80e9)
    assert Setting(torch.device("cuda")).chunk(*Setting(torch.device("cuda")).latents) == 4


def test_nothing_in_float32_is_judged_in_tf32():
    seen = []

    def look(block: Any, *args: Any) -> Any:
        seen.append(torch.backends.cudnn.allow_tf32)
        return block(*args)

    correctness.dit_pass(HERE.device, torch.float32, (9,), BlockRunner(look))
    assert seen == [False] * TINY.dit.depth


def test_what_is_expected_fits_the_budget():
    assert sum(SECTIONS.values()) <= parser().parse_args([]).budget


def test_wheels_and_folders_are_found(tmp_path, monkeypatch):
    folder, unpacked = tmp_path / "wheels", tmp_path / "unpacked"
    (folder / "comfyui").mkdir(parents=True)
    (folder / "comfyui" / "main.py").touch()
    (folder / "kit_installed.py").write_text("value = 1")
    with zipfile.ZipFile(folder / "kit_packed-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("kit_packed.py", "value = 2")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COMFYUI_PATH", "")
    monkeypatch.delenv("COMFYUI_PATH")
    assert wheels.use(folder, unpacked) == sys.path[-2:]
    import kit_installed
    import kit_packed

    assert (kit_installed.value, kit_packed.value) == (1, 2)
    assert os.environ["COMFYUI_PATH"] == str(folder / "comfyui")
