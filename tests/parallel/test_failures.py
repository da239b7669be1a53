"""Ranks that raise, are killed or hang, at every stage: a clear error soon, nothing left, the next request works."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from mochi.errors import GroupError, MochiError
from mochi.parallel.owner.client import finish
from mochi.parallel.owner.failures import RankState, group_error
from mochi.parallel.owner.folder import SHORT
from mochi.parallel.owner.group import Group, end
from mochi.parallel.owner.manager import GroupManager
from mochi.parallel.owner.processes import Processes
from mochi.parallel.protocol import Decode
from mochi.parallel.worker.loop import failed
from tests.parallel.helpers import FAULTY, ask, gone, tiny_dit, tiny_vae, wait_until

HANG = 6.0  # the timeout in these tests; long enough for imports on a busy machine
SOON = 5.0
WORDS = {
    "raise": "failed with RuntimeError: a planned failure",
    "kill": "was killed by SIGKILL",
    "stop": "no sign of life",
}
LATENTS = torch.randn(1, 12, 2, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def manager(private_tmp):
    manager = GroupManager(["cpu"] * 2, timeout=HANG, service=(FAULTY, "Faulty"), threads=1)
    yield manager
    manager.close()
    assert not [path.name for path in private_tmp.iterdir() if not path.name.startswith(("pymp-", "mochi-group-"))]
    assert not [path.name for path in private_tmp.glob("mochi-group-*") if not path.name.endswith("-logs")]


def sampling(manager: GroupManager) -> Callable[[], torch.Tensor]:
    dit = tiny_dit(manager)
    text = dit.text(torch.zeros(1, 256, 128), torch.zeros(1, 256, dtype=torch.bool))
    return lambda: finish(dit.sample(LATENTS, [1.0, 0.5, 0.0], [4.0, 4.0], [(text, 0)], [(text, 0)]))


def forward(manager: GroupManager) -> Callable[[], torch.Tensor]:
    dit = tiny_dit(manager)
    text = dit.text(torch.zeros(1, 256, 128), torch.zeros(1, 256, dtype=torch.bool))
    return lambda: finish(dit.forward(LATENTS, torch.ones(1), [(text, 0)]))


def decoding(manager: GroupManager) -> Callable[[], None]:
    vae = tiny_vae(manager)
    return lambda: finish(vae.decode(LATENTS))


STAGES = {"LoadDiT": sampling, "Sample": sampling, "Forward": forward, "Decode": decoding}
DOING = {"LoadDiT": "loading", "Sample": "sampling", "Forward": "making a forward pass", "Decode": "decoding"}


@pytest.mark.parametrize("kind", ["raise", "kill", "stop"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_rank_fails(manager, stage, kind):
    group = manager.use()
    pids = group.pids
    work = STAGES[stage](manager)
    ask(group, "fault", rank=1, request=stage, kind=kind)
    started = time.monotonic()
    with pytest.raises(GroupError) as failure:
        work()
    assert time.monotonic() - started < SOON + (HANG if kind == "stop" else 0)
    message = str(failure.value)
    assert message.startswith("Rank 1 of 2 (cpu)") and WORDS[kind] in message and DOING[stage] in message
    assert gone(pids) and group.closed
    if kind == "raise":
        assert "Traceback" in message and "faulty_service.py" in message
    if kind != "raise" or stage == "Sample":  # once is enough of the slower half
        work()
        assert manager.use().pids != pids


def killed_from_outside(pids: Callable[[], list[int]], number: int, seconds: float) -> threading.Thread:
    def run() -> None:
        time.sleep(seconds)
        os.kill(pids()[1], number)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_killed_in_the_middle_of_a_collective(manager):
    group = manager.use()
    thread = killed_from_outside(lambda: group.pids, signal.SIGKILL, 0.3)
    with pytest.raises(GroupError, match=r"(?s)Rank 1 .* was killed by SIGKILL, while steps, step \d+ of 1000"):
        ask(group, "steps", count=1000)
    thread.join()


def test_killed_while_nothing_runs(manager):
    """Nobody need hear of that: the next request finds a new group."""
    group = manager.use()
    os.kill(group.pids[0], signal.SIGKILL)
    wait_until(lambda: not group.alive, SOON)
    assert ask(manager.use(), "echo", x=1) == [1, 1]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("raise", "a planned failure, while starting"),
        ("kill", "SIGKILL, while starting"),
        ("memory", "ran out of memory. Choose weights"),
        ("stop", "no sign of life"),
    ],
)
def test_a_start_fails(private_tmp, monkeypatch, kind, words):
    monkeypatch.setenv("MOCHI_TEST_FAULT", kind)
    with pytest.raises(GroupError, match=f"(?s)Rank 1 of 2.*{words}"):
        Group(["cpu"] * 2, timeout=HANG, service=(FAULTY, "FaultyStart"), threads=1)
    assert not [path for path in private_tmp.glob("mochi-group-*") if not path.name.endswith("-logs")]


NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3699, "
NO_MEMORY = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of"),
    "cuda": RuntimeError(
        "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/\n"
        "CUDA kernel errors might be asynchronously reported at some other API call"
    ),
    "driver": RuntimeError("CUDA driver error: out of memory"),
    "nccl": dist.DistBackendError(
        NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
    ),
    "nccl, older": dist.DistBackendError(
        NCCL + "unhandled cuda error, NCCL version 2.21.5\nLast error:\nCuda failure 'out of memory'"
    ),
    "nccl's buffers": dist.DistBackendError(
        NCCL + "unhandled cuda error, NCCL version 2.21.5\nncclUnhandledCudaError: Call to CUDA function failed.\n"
        "Last error:\nFailed to CUDA calloc async 608 bytes"
    ),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cudnn 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "on the cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "python": MemoryError(),
}
OF_PEERS = {
    "nccl": dist.DistBackendError(
        NCCL + "remote process exited or there was a network error, NCCL version 2.28.9\n"
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\n"
        "Last error:\n"
        "socketPollConnect: connect to 127.0.0.1<41723> returned Connection refused, exceeded error retry count"
    ),
    "gloo": RuntimeError(
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:30144"
    ),
}


@pytest.mark.parametrize("name", NO_MEMORY)
def test_out_of_memory_is_known_by_the_words_of_every_library(name):
    """And is never taken for the fault of a peer, who speaks the same words of NCCL."""
    report = failed(NO_MEMORY[name])
    assert report.out_of_memory and not report.of_peer
    states = [RankState(rank, f"cuda:{rank}", Path("none")) for rank in range(3)]
    states[0].report, states[2].report = failed(OF_PEERS["nccl"]), report
    message = str(group_error(states))
    assert message.startswith("Rank 2 of 3 (cuda:2)") and "ran out of memory. Choose weights" in message


def test_advice_says_where_the_settings_are(tmp_path):
    silent = RankState(0, "cuda:0", tmp_path / "rank0.log", silent_for=600.0)
    assert "raise the timeout in the menu." in str(group_error([silent], " in the menu"))
    full = RankState(0, "cuda:0", tmp_path / "rank0.log", report=failed(NO_MEMORY["torch"]))
    assert "Choose weights 'sharded' or 'offloaded' in the menu, fewer" in str(group_error([full], " in the menu"))


@pytest.mark.parametrize("name", OF_PEERS)
def test_the_words_of_a_peer_s_end_are_known(name):
    report = failed(OF_PEERS[name])
    assert report.of_peer and not report.out_of_memory


@pytest.mark.parametrize(("why", "is_of_memory"), [(str(NO_MEMORY["nccl"]), True), ("Watchdog caught timeout", False)])
def test_why_a_rank_was_aborted_is_read_in_its_log(tmp_path, why, is_of_memory):
    (tmp_path / "rank0.log").write_text(f"terminate called after throwing 'c10::DistBackendError'\n{why}")
    aborted = RankState(0, "cuda:0", tmp_path / "rank0.log", exitcode=-signal.SIGABRT)
    assert ("ran out of memory. Choose weights" in str(group_error([aborted]))) == is_of_memory


def test_a_rank_that_waits_for_ever_is_found(private_tmp):
    """All ranks live, but the request does not move on. Their logs then show where they are."""
    group = Group(["cpu"] * 2, timeout=3.0, service=(FAULTY, "Faulty"), threads=1)
    with pytest.raises(GroupError, match=r"(?s)gave no sign of life.*faulty_service.py"):
        ask(group, "sleep", seconds=60)
    assert gone(group.pids)


def test_a_refusal_of_one_rank_alone_ends_the_group(manager, monkeypatch):
    monkeypatch.setattr("mochi.parallel.owner.hearing.LOCKSTEP", 1.0)
    group = manager.use()
    with pytest.raises(MochiError, match="too blue"):
        ask(group, "refuse", ranks=(1,))
    assert gone(group.pids) and group.closed


class Stuck:
    """A worker in a call of a driver, which even SIGKILL does not end."""

    rank, pid, is_alive, killed = 3, 4711, True, False
    channel = SimpleNamespace(close=lambda: None)

    def kill(self) -> None:
        self.killed = True

    def wait(self, seconds: float) -> None:
        assert seconds < 60


def test_nobody_waits_for_ever_for_a_process_that_does_not_go(private_tmp, caplog):
    crew, worker = Processes(["cpu"]), Stuck()
    crew.workers.append(worker)
    end(crew, os.getpid())
    assert worker.killed and not list(private_tmp.iterdir())
    assert "mochi-rank3 (process 4711) was killed and has not gone" in caplog.text


def test_logs_are_kept_but_not_for_ever(private_tmp, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("mochi.parallel.owner.folder.KEPT_LOGS", 1)
    logs = tmp_path_factory.mktemp("logs")
    for _ in range(2):
        group = Group(["cpu"], timeout=HANG, service=(FAULTY, "Faulty"), log_folder=logs, threads=1)
        ask(group, "fault", rank=0, request="Decode", kind="raise")
        with pytest.raises(GroupError, match="a planned failure") as failure:
            group.run(Decode("", torch.zeros(1)))
        (kept,) = logs.iterdir()
        assert str(kept / "rank0.log") in str(failure.value)
        assert "a planned failure" in (kept / "rank0.log").read_text()
        assert (kept / "rank0.log").stat().st_mode & 0o777 == 0o600
    assert not list(private_tmp.glob("mochi-group-*"))


def test_no_room_for_a_private_folder(monkeypatch, private_tmp):
    monkeypatch.setattr("tempfile.tempdir", str(private_tmp / "missing"))
    with pytest.raises(MochiError, match=r"missing does not serve.*TMPDIR"):
        Group(["cpu"] * 2)


def test_no_temporary_folder_at_all(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/dev/null/tmp"])
    with pytest.raises(MochiError, match=r"No usable temporary directory.*TMPDIR"):
        Group(["cpu"] * 2)


def test_a_long_path_of_temporary_files(private_tmp, monkeypatch):
    """Its sockets would not fit: the ranks meet elsewhere, and tensors come back from there."""
    long = private_tmp / ("x" * 50)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    group = Group(["cpu"] * 2, timeout=HANG, service=(FAULTY, "Faulty"), threads=1)
    try:
        folder = ask(group, "environment")[1]["TMPDIR"]
        assert ask(group, "echo", x=LATENTS)[1].equal(LATENTS)
    finally:
        group.close()
    assert Path(folder).parent == SHORT and not Path(folder).exists() and not list(long.iterdir())


def test_any_name_of_the_folder_of_temporary_files(private_tmp, monkeypatch):
    """In a URL, some of these characters would end the path."""
    odd = private_tmp / "50% #1?x ü"
    odd.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    group = Group(["cpu"] * 2, timeout=60.0, service=(FAULTY, "Faulty"), threads=1)
    try:
        assert ask(group, "echo", x=LATENTS)[1].equal(LATENTS)
    finally:
        group.close()
    assert not list(odd.iterdir()) and {path.name for path in private_tmp.iterdir()} <= {odd.name}


def test_a_folder_that_cannot_be_used_does_not_stay(private_tmp, monkeypatch):
    def no_room(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("mochi.parallel.wire.Board.create", no_room)
    with pytest.raises(MochiError, match="No space left"):
        Group(["cpu"] * 2)
    assert not list(private_tmp.glob("mochi-group-*"))
