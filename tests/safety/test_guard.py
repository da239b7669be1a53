"""Frames on their way through a guard: none reaches the writer before what is around it has been looked at."""

import json
import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mochi.crossing import decode, encode
from mochi.errors import Blocked, MochiError
from mochi.safety import Finding, Guard, Safety, guarded, logged
from mochi.safety.log import append


class BadFrames:
    """Finds frames whose first value is in `bad`."""

    def __init__(self, every: int, bad: frozenset[int] = frozenset()):
        self.every, self.bad = every, bad
        self.seen: list[int] = []

    def check_prompt(self, text: str) -> Finding | None:
        return Finding("bad", 0.75) if "bad" in text else None

    def check_frames(self, frames: Tensor) -> Finding | None:
        assert frames.dtype == torch.uint8 and frames.shape[1:] == (2, 3, 3)
        numbers = frames[:, 0, 0, 0].tolist()
        self.seen += numbers
        return next((Finding("red", 0.9, i) for i, number in enumerate(numbers) if number in self.bad), None)


def numbered(count: int) -> Tensor:
    """Each frame is its number."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 3, 3).contiguous()


def batches(sizes: list[int], *, as_floats: bool = False, spoiled: bool = False):
    """spoiled: the memory of a batch is used again for the next, as a decoder may do."""
    start = 0
    for size in sizes:
        frames = numbered(start + size)[start:]
        yield frames / 255 if as_floats else frames
        if spoiled:
            frames.fill_(255)
        start += size


SIZES = st.lists(st.integers(0, 7), max_size=8)


@given(SIZES, st.lists(st.integers(0, 9), max_size=3), st.booleans())
def test_all_frames_come_out_as_they_came_in(sizes: list[int], periods: list[int], as_floats: bool) -> None:
    out: list[Tensor] = []
    checks = [BadFrames(every) for every in periods]
    with guarded(lambda frames: out.append(frames.clone()), Guard([("x", check) for check in checks]), {}) as write:
        for frames in batches(sizes, as_floats=as_floats, spoiled=not as_floats):
            write(frames)
            total = sum(map(len, out))
            for check in checks:  # the newest one that is written is no newer than what was looked at
                assert not check.every or total == 0 or total - 1 <= max(check.seen)
    total = sum(sizes)
    wanted = numbered(total) / 255 if as_floats else numbered(total)
    assert torch.cat([wanted[:0], *out]).equal(wanted)
    for check in checks:
        expected = {*range(0, total, check.every), total - 1} if check.every and total else set()
        assert sorted(check.seen) == sorted(expected)


@given(SIZES.filter(any), st.integers(1, 9), st.data())
def test_nothing_beside_a_bad_frame_comes_out(sizes: list[int], every: int, data: st.DataObject) -> None:
    total = sum(sizes)
    looked = sorted({*range(0, total, every), total - 1})
    bad = data.draw(st.sampled_from(looked))
    out: list[int] = []
    check = BadFrames(every, frozenset({bad}))
    with (
        pytest.raises(Blocked, match=f"^frame {bad} is blocked by the safety check x: red \\(score 0.90\\)$") as caught,
        guarded(lambda frames: out.extend(frames[:, 0, 0, 0].tolist()), Guard([("x", check)]), {"seed": 3}) as write,
    ):
        for frames in batches(sizes):
            write(frames)
    before = max((number for number in looked if number < bad), default=-1)
    assert out == list(range(len(out))) and len(out) <= before + 1
    facts = {"check": "x", "reason": "red", "score": 0.9, "frame": bad, "settings": {"seed": 3}}
    assert caught.value.facts == facts


def test_at_most_so_many_wait() -> None:
    written = 0

    def write(frames: Tensor) -> None:
        nonlocal written
        written += len(frames)

    with guarded(write, Guard([("x", BadFrames(4))]), {}) as put:
        waiting = []
        for number in range(13):
            put(numbered(number + 1)[-1:])
            waiting.append(number + 1 - written)
    assert waiting == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_without_a_guard_it_is_the_writer_itself() -> None:
    def write(frames: Tensor) -> None: ...

    with guarded(write, None, {}) as given_back:
        assert given_back is write


def test_an_error_while_frames_come_lets_nothing_more_out() -> None:
    out: list[Tensor] = []
    with pytest.raises(KeyboardInterrupt), guarded(out.append, Guard([("x", BadFrames(8))]), {}) as write:
        write(numbered(5))
        raise KeyboardInterrupt
    assert sum(map(len, out)) == 1


def test_a_whole_video() -> None:
    guard = Guard([("x", BadFrames(8, frozenset({99})))])
    guard.check_frames(numbered(99), {})
    with pytest.raises(Blocked, match="frame 99"):
        guard.check_frames(numbered(100), {})


def test_prompts() -> None:
    guard = Guard([("x", BadFrames(1))])
    guard.check_prompt("good", {})
    with pytest.raises(Blocked, match=r"^the prompt is blocked by the safety check x: bad \(score 0.75\)$"):
        guard.check_prompt("bad", {})


def test_a_check_that_fails_lets_nothing_through() -> None:
    class Broken(BadFrames):
        def check_prompt(self, text: str) -> Finding | None:
            raise RuntimeError("no network")

    with pytest.raises(MochiError, match="the safety check x failed, so nothing is made: RuntimeError: no network"):
        Guard([("x", Broken(1))]).check_prompt("good", {})


@pytest.mark.parametrize("found", ["red", SimpleNamespace(reason="red", score=torch.tensor(0.5), frame=1)])
def test_findings_of_other_kinds(found) -> None:
    """Another package may not be able to import ours."""
    check = SimpleNamespace(check_prompt=lambda text: found, check_frames=lambda frames: found)
    guard = Guard([("x", check)])
    with pytest.raises(Blocked, match="the prompt is blocked by the safety check x: red") as caught:
        guard.check_prompt("a", {})
    assert json.dumps(caught.value.facts) and caught.value.facts["score"] == getattr(found, "score", None)
    with pytest.raises(Blocked, match="frame 0" if found == "red" else "frame 1"):
        guard.check_frames(numbered(3), {})
    with pytest.raises(MochiError, match="failed, so nothing is made: AttributeError"):
        Guard([("x", SimpleNamespace(check_prompt=lambda text: False))]).check_prompt("a", {})


def test_what_is_blocked_crosses_to_another_process() -> None:
    blocked = Blocked("why", {"check": "x", "score": 0.5})
    copy = decode(encode(blocked))
    assert type(copy) is Blocked and str(copy) == "why" and copy.facts == blocked.facts


def test_the_log(tmp_path: Path) -> None:
    for number in range(2):
        with pytest.raises(Blocked, match=r"^why$"), logged(None, tmp_path / "out" / "clip.mp4"):
            raise Blocked("why", {"check": "x", "settings": {"prompt": "ü\n\ud83d", "seed": number}})
    lines = (tmp_path / "out" / "blocked.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["settings"] for entry in entries] == [{"prompt": "ü\n\ud83d", "seed": seed} for seed in (0, 1)]
    assert all(entry["time"].endswith("+00:00") and entry["check"] == "x" for entry in entries)
    with pytest.raises(Blocked), logged(tmp_path / "other.log", tmp_path / "clip.mp4"):
        raise Blocked("why")
    assert (tmp_path / "other.log").is_file() and not (tmp_path / "blocked.jsonl").exists()


def test_other_errors_are_not_logged(tmp_path: Path) -> None:
    with pytest.raises(MochiError), logged(None, tmp_path / "clip.mp4"):
        raise MochiError("x")
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_written_blocks_all_the_same(tmp_path: Path) -> None:
    message = r"^why; .* could not be written \(Is a directory\)$"
    with pytest.raises(Blocked, match=message), logged(tmp_path, tmp_path / "clip.mp4"):
        raise Blocked("why")


def write_lines(file: Path, letter: str) -> None:
    for _ in range(200):
        append(file, letter * 5000)


def test_several_processes_write_one_log(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_lines, args=(tmp_path / "log", letter)) for letter in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(lines) == sorted(letter * 5000 for letter in "abc" for _ in range(200))


@pytest.mark.parametrize("every", [None, "8", -1, True, 2.5])
def test_how_often_a_check_is_asked(every: Any) -> None:
    with pytest.raises(MochiError, match="the safety check theirs has every = "):
        Guard([("theirs", cast("Safety", SimpleNamespace(every=every)))])


class TheirError(MochiError):
    """That of another package, which cannot be made again from its text."""

    def __init__(self, one: int, two: int):
        super().__init__(f"{one} and {two}")


def test_an_error_of_another_package_crosses_to_another_process() -> None:
    def check_prompt(text: str) -> None:
        raise TheirError(1, 2)

    guard = Guard([("theirs", cast("Safety", SimpleNamespace(check_prompt=check_prompt)))])
    with pytest.raises(MochiError, match="1 and 2") as raised:
        guard.check_prompt("cat", {})
    assert str(decode(encode(raised.value))) == "1 and 2"
