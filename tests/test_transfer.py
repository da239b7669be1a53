"""Tensors that leave a GPU: what arrives, in which order, and when the host goes on. The GPU is pretended: it does
what it was given when it is told to run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mochi import transfer
from mochi.errors import Cancelled
from mochi.transfer import LEAD, Outgoing, arriving

GPU = torch.device("cuda", 0)
PATIENCE = 20  # seconds, for what is to happen at once


class Stream:
    """Copies and marks in the order in which the host asked for them; none is made before `run`."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.always_on = False
        self.one_at_a_time = threading.Lock()

    def give(self, work: Callable[[], None]) -> None:
        self.waiting.append(work)
        if self.always_on:
            self.run()

    def run(self) -> None:
        with self.one_at_a_time:
            while self.waiting:
                self.waiting.pop(0)()

    def keep_running(self) -> None:
        self.always_on = True
        self.run()

    def start_copy(self, t: Tensor) -> Tensor:
        there, now = torch.full_like(t, -1), t.clone()
        self.give(lambda: there.copy_(now))
        return there

    def mark(self, device: torch.device) -> Mark:
        mark = Mark()
        self.give(mark.reached.set)
        return mark


class Mark:
    def __init__(self) -> None:
        self.reached = threading.Event()

    def synchronize(self) -> None:
        assert self.reached.wait(PATIENCE), "the host waits for work that nobody started"


class OnGPU(Tensor):
    """Says that it is on a GPU."""

    device = GPU


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    stream = Stream()
    monkeypatch.setattr(transfer, "_start_copy", stream.start_copy)
    monkeypatch.setattr(transfer, "_mark", stream.mark)
    return stream


class Heard:
    """Takes deliveries."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.threads: set[int] = set()
        self.news = threading.Condition()

    def __call__(self, *tensors: Tensor) -> None:
        with self.news:
            self.numbers += [int(t) for t in tensors]
            self.threads.add(threading.get_ident())
            self.news.notify()

    def wait_for(self, numbers: list[int]) -> None:
        with self.news:
            assert self.news.wait_for(lambda: self.numbers == numbers, PATIENCE), self.numbers


def number(n: int) -> Tensor:
    return torch.tensor(n)


def test_a_cpu_hands_over_at_once_in_the_same_thread():
    heard = Heard()
    with Outgoing(torch.device("cpu")) as outgoing:
        outgoing.send(heard, number(1), number(2))
        assert heard.numbers == [1, 2] and heard.threads == {threading.get_ident()}


def test_the_host_goes_on_before_the_gpu_has_done_its_work(stream):
    heard = Heard()
    with Outgoing(GPU) as outgoing:
        for n in range(LEAD):
            outgoing.send(heard, number(2 * n), number(2 * n + 1))
        assert heard.numbers == []
        stream.run()
        heard.wait_for(list(range(2 * LEAD)))  # without any other call of the host
        stream.always_on = True
        outgoing.send(heard, number(2 * LEAD))
    assert heard.numbers == list(range(2 * LEAD + 1))
    assert threading.get_ident() not in heard.threads


def test_what_changes_behind_a_send_is_not_sent(stream):
    heard, value = Heard(), number(1)
    with Outgoing(GPU) as outgoing:
        outgoing.send(heard, value)
        value += 1
        stream.keep_running()
    assert heard.numbers == [1]


def test_an_event_without_tensors_waits_for_the_gpu_too(stream):
    told = []
    with Outgoing(GPU) as outgoing:
        outgoing.send(lambda: told.append("step 1"))
        assert not told
        stream.keep_running()
    assert told == ["step 1"]


def test_the_host_is_no_further_ahead_than_said(stream):
    heard, sent = Heard(), []

    def send_all() -> None:
        with Outgoing(GPU) as outgoing:
            for n in range(LEAD + 3):
                outgoing.send(heard, number(n))
                sent.append(n)

    host = threading.Thread(target=send_all)
    host.start()
    host.join(0.2)
    assert host.is_alive() and sent == list(range(LEAD))
    stream.keep_running()
    host.join(PATIENCE)
    assert not host.is_alive() and heard.numbers == list(range(LEAD + 3))


def test_after_a_cancel_nothing_is_waited_for_and_nothing_comes(stream):
    heard = Heard()
    with pytest.raises(Cancelled), Outgoing(GPU) as outgoing:
        outgoing.send(heard, number(1))
        stream.run()
        heard.wait_for([1])
        outgoing.send(heard, number(2))
        outgoing.send(heard, number(3))
        raise Cancelled  # the GPU still has both before it
    stream.run()
    time.sleep(0.1)
    assert heard.numbers == [1]


def test_a_cancel_lets_a_delivery_finish(stream):
    stream.keep_running()
    began, steps = threading.Event(), []

    def slow(*_: Tensor) -> None:
        began.set()
        time.sleep(0.1)
        steps.append("delivered")

    with pytest.raises(Cancelled), Outgoing(GPU) as outgoing:
        outgoing.send(slow, number(1))
        assert began.wait(PATIENCE)
        raise Cancelled
    assert steps == ["delivered"]


@pytest.mark.parametrize("later", [0, LEAD + 1])
def test_what_a_delivery_raises_reaches_the_host(stream, later):
    stream.keep_running()
    heard = Heard()

    def broken(*_: Tensor) -> None:
        raise BrokenPipeError("the owner is gone")

    with pytest.raises(BrokenPipeError), Outgoing(GPU) as outgoing:
        outgoing.send(broken, number(0))
        for n in range(later):
            outgoing.send(heard, number(n))


def test_a_frame_of_a_gpu_comes_when_the_next_is_under_way(stream):
    stream.keep_running()
    made: list[int] = []

    def frames() -> Iterator[Tensor]:
        for n in range(4):
            made.append(n)
            yield number(n).as_subclass(OnGPU)

    came = [(int(frame), len(made)) for frame in arriving(frames())]
    assert came == [(0, 2), (1, 3), (2, 4), (3, 4)]
    assert list(arriving(iter(()))) == []


def test_frames_of_a_cpu_come_as_they_are_made():
    made: list[Tensor] = []

    def frames() -> Iterator[Tensor]:
        for n in range(3):
            made.append(number(n))
            yield made[-1]

    assert all(frame is made[-1] for frame in arriving(frames())) and len(made) == 3


@pytest.mark.cuda
@torch.inference_mode()
def test_on_a_gpu():
    came = []
    values = torch.arange(1 << 20, device=GPU)
    with Outgoing(GPU) as outgoing:
        for n in range(5):
            outgoing.send(came.append, values + n)
    frames = list(arriving(values + n for n in range(5)))
    for n in range(5):
        assert torch.equal(came[n], torch.arange(1 << 20) + n) and torch.equal(frames[n], came[n])
        assert came[n].is_pinned() and frames[n].is_pinned()
