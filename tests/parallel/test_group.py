"""The group: clean starts, requests, cancelling, ending. Failures are in test_failures.py."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.util import get_temp_dir
from pathlib import Path

import pytest
import torch

from mochi.errors import MochiError
from mochi.parallel.owner.group import Group
from mochi.parallel.owner.process import Worker
from tests.parallel.helpers import FAULTY, ask, gone, listening_outside_loopback, wait_until

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "backend:cudaMallocAsync"  # as ComfyUI does
    os.environ["MASTER_PORT"] = "1"
    try:
        group = Group(["cpu"] * 2, timeout=60.0, service=(FAULTY, "Faulty"), threads=1)
    finally:
        del os.environ["PYTORCH_CUDA_ALLOC_CONF"], os.environ["MASTER_PORT"]
    yield group
    group.close()


def test_ranks_work_together(group):
    results = ask(group, "add_up", x=torch.arange(3.0))
    assert len(results) == 2
    assert all(torch.equal(result, 2 * torch.arange(3.0)) for result in results)


def test_tensors_come_back_as_they_were(group):
    for dtype in (torch.float32, torch.bfloat16, torch.bool, torch.int64):
        x = (torch.randn(3, 5) * 10).to(dtype)
        back = ask(group, "echo", x=[x, {"t": x[1:]}])[1]
        assert torch.equal(back[0], x) and torch.equal(back[1]["t"], x[1:])


def test_a_rank_starts_clean(group):
    for modules in ask(group, "modules"):
        names = {name.split(".")[0] for name in modules}
        assert not names & {"comfy", "execution", "server", "folder_paths", "pytest", "tests"}
        assert "mochi.parallel.worker.service" in modules


def test_a_rank_has_an_environment_of_its_own(group):
    for environment in ask(group, "environment"):
        assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
        assert "MASTER_PORT" not in environment
        assert environment["GLOO_SOCKET_IFNAME"] == environment["NCCL_SOCKET_IFNAME"] == "lo"
        assert Path(environment["TMPDIR"]).name.startswith("mochi-group-")
    assert ask(group, "threads") == [1, 1]


def test_a_rank_can_end_what_it_starts(group):
    """As torch does with the processes that compile for it, which do not inherit that ranks stay at SIGTERM."""
    assert ask(group, "terminated_program") == [-signal.SIGTERM] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_listens_to_other_machines(group):
    assert [listening_outside_loopback(pid) for pid in group.pids] == [[], []]


def test_ranks_leave_a_cancelled_request_together_and_take_the_next(group):
    pids = group.pids
    run = group.stream(("steps", {"count": 1000}), "steps")
    for event in run:
        if event is not None and event.payload.done == 3:
            break
    run.close()
    assert ask(group, "echo", x="next") == ["next", "next"]
    left = ask(group, "where_left")
    assert left[0] == left[1] and 3 <= left[0] < 100
    assert group.pids == pids and group.alive


def test_an_abandoned_request_does_not_cancel_a_later_one(group):
    abandoned = group.stream(("steps", {"count": 5}), "steps")
    next(abandoned)
    later = group.stream(("steps", {"count": 4}), "steps")
    next(later)
    abandoned.close()
    with pytest.raises(StopIteration) as end:
        while True:
            next(later)
    assert [answer.result for answer in end.value.value] == [4, 4]


def test_what_all_ranks_refuse_costs_nothing(group):
    with pytest.raises(MochiError, match="too blue"):
        ask(group, "refuse", ranks=(0, 1))
    assert ask(group, "echo", x=1) == [1, 1]


def test_end_leaves_nothing(private_tmp):
    group = Group(["cpu"] * 2, timeout=60.0, service=(FAULTY, "Faulty"), threads=1)
    assert list(private_tmp.iterdir())
    ask(group, "echo", x=torch.ones(10))
    pids = group.pids
    group.close()
    assert gone(pids)
    assert not [path for path in private_tmp.iterdir() if not path.name.startswith("pymp-")]
    with pytest.raises(MochiError, match="ended"):
        ask(group, "echo", x=1)


def test_a_rank_that_ends_slowly_leaves_the_owner_its_folder():
    """Where the owner offers tensors to the ranks of later groups, too."""
    for _ in range(2):
        group = Group(["cpu"], timeout=60.0, service=(FAULTY, "SlowEnd"), threads=1)
        assert torch.equal(group.run(torch.ones(2), "echo")[0], torch.ones(2))
        group.close()
        assert Path(get_temp_dir()).exists()


SCRIPT = """
import sys, os
print("main runs", flush=True)
sys.path.insert(0, {project!r})
import torch
from mochi.parallel.owner.group import Group
if os.environ.get("GUARD", "1"):
    group = Group(["cpu"] * 2, timeout=60.0, service=({faulty!r}, "Faulty"), threads=1)
    print("pids", *group.pids, flush=True)
    {then}
"""


def run_owner(tmp_path: Path, private_tmp: Path, then: str) -> tuple[subprocess.Popen, list[int]]:
    """A program that owns a group; its process, and the ranks'. The main module has no guard, as ComfyUI's has none."""
    file = tmp_path / "main.py"
    file.write_text(SCRIPT.format(project=str(PROJECT), faulty=FAULTY, then=then))
    environment = {**os.environ, "TMPDIR": str(private_tmp)}
    owner = subprocess.Popen(
        [sys.executable, str(file)], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    lines = iter(owner.stdout.readline, "")
    started = [next(lines), next(lines)]
    assert started[0] == "main runs\n" and started[1].startswith("pids")
    return owner, [int(pid) for pid in started[1].split()[1:]]


def end_the_service(pid: int) -> None:
    """As systemd stops a service: SIGTERM to each of its processes."""
    os.killpg(pid, signal.SIGTERM)


@pytest.mark.parametrize(
    "end",
    [lambda pid: os.kill(pid, signal.SIGKILL), lambda pid: os.kill(pid, signal.SIGTERM), end_the_service],
    ids=["SIGKILL", "SIGTERM", "service"],
)
def test_ranks_end_with_their_owner(tmp_path, private_tmp, end):
    then = "group.run(('echo', {'x': torch.ones(3)}), 'echo'); group.run(('steps', {'count': 100000}), 'steps')"
    owner, pids = run_owner(tmp_path, private_tmp, then)
    end(owner.pid)
    owner.wait()
    wait_until(lambda: gone(pids), 5.0)
    wait_until(lambda: not list(private_tmp.iterdir()), 5.0)


def test_a_folder_that_takes_its_time_to_go_goes_with_the_owner(tmp_path, private_tmp):
    """The main thread of a rank, whose message nobody takes any more, ends long before all is removed."""
    fill = "[(group._crew.folder / str(number)).touch() for number in range(20000)]"
    owner, pids = run_owner(tmp_path, private_tmp, f"{fill}; group.run(('steps', {{'count': 100000}}), 'steps')")
    wait_until(lambda: len(list(next(private_tmp.glob("mochi-group-*")).iterdir())) > 20000, 30.0)
    owner.kill()
    owner.wait()
    wait_until(lambda: gone(pids), 15.0)
    assert list(private_tmp.iterdir()) == []


def test_an_owner_that_ends_in_good_order_leaves_nothing(tmp_path, private_tmp):
    owner, pids = run_owner(tmp_path, private_tmp, "group.run(('echo', {'x': torch.ones(3)}), 'echo')")
    assert owner.wait(30) == 0
    assert gone(pids)
    assert list(private_tmp.iterdir()) == []


def test_the_end_of_a_fork_of_the_owner_is_not_the_end_of_the_group(group):
    child = os.fork()
    if child == 0:
        group._finalizer()
        os._exit(0)
    os.waitpid(child, 0)
    assert group.alive and (group._crew.folder / "board").exists()
    assert torch.equal(ask(group, "echo", x=torch.ones(2))[0], torch.ones(2))


def test_starting_cleanly_disturbs_no_other_child(tmp_path):
    """The way a rank is started must not change how another thread's ordinary child starts at the same time."""
    other = tmp_path / "other.py"
    other.write_text(
        f"""
import sys, threading, multiprocessing
sys.path.insert(0, {str(PROJECT)!r})
from pathlib import Path

def child(queue):
    queue.put("child of main")

if __name__ == "__main__":
    from mochi.parallel.owner.process import Worker
    context = multiprocessing.get_context("spawn")
    empty = Path({str(tmp_path)!r}) / "empty.py"
    empty.write_text("")
    going = True

    def start_cleanly():
        while going:
            worker = Worker(0, "cpu", Path({str(tmp_path)!r}), {{}}, empty)
            worker.wait(60)
            assert worker.exitcode == 0, worker.exitcode

    thread = threading.Thread(target=start_cleanly); thread.start()
    for _ in range(8):
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(queue,)); process.start()
        assert queue.get() == "child of main"
        process.join()
        assert process.exitcode == 0
    going = False; thread.join(); print("fine")
"""
    )
    done = subprocess.run([sys.executable, str(other)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "fine\n", done.stderr


def test_a_worker_is_told_nothing_of_the_main_module(tmp_path, monkeypatch):
    monkeypatch.setenv("SET_HERE", "1")
    seen = tmp_path / "seen.py"
    seen.write_text(
        "import os, sys; print(sys.argv[2:4], 'pytest' in sys.modules, 'SET_HERE' in os.environ, os.getcwd())"
    )
    worker = Worker(3, "cpu", tmp_path, {}, seen)
    worker.wait(60)
    assert worker.exitcode == 0
    assert worker.state.log.read_text() == f"{['3', str(os.getpid())]} False False {tmp_path}\n"
    worker.channel.close()
