"""What crosses between owner and workers, and under which names."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

from mochi.config import TINY_WEIGHTS
from mochi.dit.cache import CachePlan
from mochi.lora.patch import LoraPatch, ReplacePatch
from mochi.parallel.protocol import Ask, Forward, PatchWeights, Reply, StepDone
from mochi.parallel.wire import Board, Channel

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def ends(tmp_path) -> Iterator[tuple[Channel, Channel]]:
    a, b = (Channel(end, tmp_path) for end in Pipe())
    yield a, b
    a.close()
    b.close()


def cross(ends: tuple[Channel, Channel], message: object) -> object:
    ends[0].send(message)
    return ends[1].receive()


def test_requests_and_events_come_as_they_were(ends):
    request = Forward(
        name="a", texts={}, forget=[1], cache=CachePlan(0.1, (1.0, 0.0)), z=torch.ones(2), sigma=[], rows=[]
    )
    ask = cross(ends, Ask(3, request))
    assert ask.number == 3 and type(ask.request) is Forward and ask.request.cache == request.cache
    assert torch.equal(ask.request.z, request.z)
    reply = cross(ends, Reply(3, StepDone(1, 2, 0.5, 7, latents=torch.arange(6.0)[2:])))
    assert reply.content.phase == "step 1 of 2" and reply.content.estimate is None
    assert torch.equal(reply.content.latents, torch.arange(6.0)[2:])


def test_patches_come_in_few_tensors(ends):
    """A LoRA has more tensors than a process may have open files."""
    patches = {f"layer {i}": [LoraPatch(torch.full((3, 1), i), torch.ones(1, 2), 0.5, start=i)] for i in range(100)}
    patches["other"] = [ReplacePatch(torch.randn(2, 2)), ReplacePatch(torch.randn(2, 2, dtype=torch.float64))]
    found = cross(ends, PatchWeights("a model", patches)).patches
    assert found.keys() == patches.keys() and found["layer 7"][0].start == 7 and found["layer 7"][0].scale == 0.5
    pairs = [(a, b) for name in patches for a, b in zip(found[name], patches[name], strict=True)]
    tensors = [(x, vars(b)[key]) for a, b in pairs for key, x in vars(a).items() if isinstance(x, torch.Tensor)]
    assert len(tensors) == 202 and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in tensors)
    assert len({x.untyped_storage().data_ptr() for x, _ in tensors}) == 3  # one for each dtype


def fails(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


NO_SHARING = {
    "full": ("torch.UntypedStorage._share_fd_cpu_", RuntimeError("unable to allocate shared memory(shm): No space")),
    "read-only": ("torch.UntypedStorage._share_fd_cpu_", OSError(30, "Read-only file system")),
    "absent": ("torch.UntypedStorage._share_fd_cpu_", RuntimeError("unable to open shared memory object")),
    "temporary folder too long": ("multiprocessing.reduction.DupFd", OSError("AF_UNIX path too long")),
}


@pytest.mark.parametrize("why", NO_SHARING)
def test_without_shared_memory_tensors_cross_in_files(ends, tmp_path, monkeypatch, caplog, why):
    place, error = NO_SHARING[why]
    monkeypatch.setattr(place, fails(error))
    whole = torch.randn(3, 5)
    sent = [whole, whole[1:, 2:], torch.ones(7, dtype=torch.bfloat16), torch.tensor(2), torch.empty(0, 4)]
    with torch.inference_mode():
        found = cross(ends, sent)
        sent.append(torch.arange(6, dtype=torch.uint8))
        found.append(cross(ends, sent[-1]))
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, sent, strict=True))
    assert found[0].untyped_storage().data_ptr() == found[1].untyped_storage().data_ptr()
    assert not list(tmp_path.iterdir()), "files stay"
    with torch.inference_mode():
        found[0].zero_()  # who receives a tensor may write into it
    assert whole.any()
    assert caplog.text.count("--shm-size=8g") == 1


def test_no_room_anywhere(ends, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.UntypedStorage._share_fd_cpu_", fails(RuntimeError("No space left on device")))
    monkeypatch.setattr("mochi.parallel.wire.open", fails(OSError(28, "No space left on device")), raising=False)
    with pytest.raises(OSError, match="No space left"):
        ends[0].send(torch.ones(3))
    assert not list(tmp_path.iterdir()), "something half-written stays"


def test_the_board_is_seen_by_all(tmp_path):
    board = Board.create(tmp_path, ranks=3)
    other = Board(tmp_path)
    assert other.cancelled == 0
    board.cancel(5)
    board.cancel(4)  # an earlier request, which is cancelled with it
    assert other.cancelled == 5
    before = board.beats
    time.sleep(0.01)
    other.beat(1)
    assert board.beats[1] > before[1] and board.beats[::2] == before[::2]


UNDER_ANOTHER_NAME = f"""
import importlib, sys, types
import torch

pack = types.ModuleType("/ComfyUI/custom_nodes/pack_x_y")
pack.__path__ = [{str(PROJECT)!r}]
sys.modules[pack.__name__] = pack
parallel = pack.__name__ + ".mochi.parallel."
protocol, group = (importlib.import_module(parallel + name) for name in ("protocol", "owner.group"))
ranks = group.Group(["cpu"], timeout=60.0, threads=1)
try:
    file = {str(TINY_WEIGHTS / "decoder.safetensors")!r}
    (loaded,) = ranks.run(protocol.LoadVAE(file, None, torch.float32, name="vae"))
    (status,) = ranks.run(protocol.GetStatus())
    decoding = ranks.stream(protocol.Decode("vae", torch.zeros(1, 12, 1, 2, 2)))
    events = [event for event in decoding if event is not None]
finally:
    ranks.close()
assert isinstance(loaded, protocol.Loaded) and loaded.nbytes > 0, loaded
assert isinstance(status, protocol.RankStatus) and status.models == ["vae"], status
assert isinstance(events[0].payload, protocol.StripDecoded), events
assert not [name for name in sys.modules if name.partition(".")[0] == "mochi"]
print("fine")
"""


def test_a_package_under_another_name_talks_to_its_workers():
    """As in ComfyUI, which names a pack by its path. No second copy is imported."""
    done = subprocess.run(
        [sys.executable, "-c", UNDER_ANOTHER_NAME], cwd="/", capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "fine\n", done.stderr
