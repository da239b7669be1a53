"""What of a person's environment reaches a rank, and what a rank is given."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

from mochi.parallel.owner.environment import rank_environment

OF_THE_MACHINE = {
    "NCCL_IB_DISABLE": "1",
    "NCCL_IB_HCA": "mlx5",
    "NCCL_TOPO_FILE": "/etc/topology.xml",
    "NCCL_CUMEM_ENABLE": "0",
    "NCCL_P2P_DISABLE": "1",
    "NCCL_NVLS_ENABLE": "0",
    "NCCL_MAX_NCHANNELS": "8",
    "NCCL_BUFFSIZE": "1048576",
    "CUDA_VISIBLE_DEVICES": "1,0",
    "HF_HOME": "/data/hf",
}
OF_A_JOB = {
    "NCCL_COMM_ID": "10.0.0.1:1234",
    "NCCL_SOCKET_IFNAME": "eth0",
    "TORCH_NCCL_BLOCKING_WAIT": "1",
    "MASTER_PORT": "29500",
    "RANK": "7",
    "OMP_NUM_THREADS": "64",
    "PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync",
    "PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync",
}


def test_what_is_set_for_the_machine_reaches_a_rank(tmp_path):
    environment = rank_environment({**OF_THE_MACHINE, **OF_A_JOB}, tmp_path, threads=3)
    assert environment.items() >= OF_THE_MACHINE.items()
    assert not {"NCCL_COMM_ID", "TORCH_NCCL_BLOCKING_WAIT", "MASTER_PORT", "RANK"} & environment.keys()
    assert environment["NCCL_SOCKET_IFNAME"] == "lo" and environment["OMP_NUM_THREADS"] == "3"
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        assert environment[name] == "expandable_segments:True"


def test_communicators_start_in_the_order_of_the_calls(tmp_path):
    assert rank_environment({}, tmp_path, 1)["NCCL_LAUNCH_ORDER_IMPLICIT"] == "1"
    chosen = {"NCCL_LAUNCH_ORDER_IMPLICIT": "0"}
    assert rank_environment(chosen, tmp_path, 1)["NCCL_LAUNCH_ORDER_IMPLICIT"] == "0"


def test_a_rank_finds_the_packages_of_its_owner(tmp_path):
    """From its own folder, too."""
    inherited = {"PYTHONPATH": os.pathsep.join(["/opt/torch", "packages"])}
    found = rank_environment(inherited, tmp_path, 1)["PYTHONPATH"]
    assert found == os.pathsep.join(["/opt/torch", os.path.abspath("packages")])
    assert not rank_environment({"PYTHONPATH": ""}, tmp_path, 1)["PYTHONPATH"]


def caches(environment: dict[str, str]) -> list[str]:
    return [environment[name] for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")]


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME"])
def test_compiled_code_stays(tmp_path, name):
    """It is found again by ranks whose private folder is another one."""
    inherited = {name: str(tmp_path / "user")}
    first, second = (rank_environment(inherited, tmp_path / folder, 1) for folder in ("one", "other"))
    assert caches(first) == caches(second) and len(set(caches(first))) == 2
    assert all(Path(cache).is_relative_to(tmp_path / "user") for cache in caches(first))


@pytest.mark.parametrize("inherited", [{}, {"HOME": "/proc/none"}, {"XDG_CACHE_HOME": "/dev/null/cache"}])
def test_without_a_home_compiled_code_goes_with_the_group(tmp_path, inherited):
    found = map(Path, caches(rank_environment(inherited, tmp_path, 1)))
    assert all(cache.parent == tmp_path for cache in found)


def test_compiled_code_is_that_of_the_processor(tmp_path, monkeypatch):
    """Of a home that several machines share."""
    first = rank_environment({"HOME": str(tmp_path)}, tmp_path, 1)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX3")
    assert (
        first["TORCHINDUCTOR_CACHE_DIR"]
        != rank_environment({"HOME": str(tmp_path)}, tmp_path, 1)["TORCHINDUCTOR_CACHE_DIR"]
    )


def test_what_inductor_chose_for_the_owner_is_no_choice(tmp_path):
    """It writes its default into the environment of the process that compiles."""
    own = str(Path(tempfile.gettempdir(), "torchinductor_somebody"))
    environment = rank_environment({"HOME": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": own}, tmp_path, 1)
    assert Path(environment["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(tmp_path)


def test_a_person_s_own_choices_for_compiling_hold(tmp_path):
    chosen = {"TORCHINDUCTOR_CACHE_DIR": "/a", "TRITON_CACHE_DIR": "/b", "TORCHINDUCTOR_COMPILE_THREADS": "7"}
    assert rank_environment({"HOME": str(tmp_path), **chosen}, tmp_path, 2).items() >= chosen.items()


def test_ranks_share_the_cores_when_they_compile(tmp_path):
    assert rank_environment({}, tmp_path, threads=4)["TORCHINDUCTOR_COMPILE_THREADS"] == "4"
