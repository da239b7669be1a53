"""A remembered hash is that of the file, whatever happened to the file or to the memory."""

import hashlib
import json
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.cluster.weights import Hashes, hashes

SETTLED = 0.03


class Told:
    """Hears of files that are hashed."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, path: str, done: int, total: int) -> None:
        self.calls.append((path, done, total))


def plain(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def settle(monkeypatch: pytest.MonkeyPatch):
    """Lets files become old enough to be remembered, in less time than people have to wait."""
    monkeypatch.setattr(hashes, "SETTLED", SETTLED)
    return lambda: time.sleep(SETTLED + 0.02)


def test_a_file_is_hashed_once(tmp_path, home, settle):
    content = os.urandom(3 * hashes.BLOCK + 17)
    path, first, second = tmp_path / "a", Told(), Told()
    path.write_bytes(content)
    settle()
    assert Hashes().sha256(path, first) == plain(content) == Hashes().sha256(path, second)
    assert [done for _, done, _ in first.calls] == [hashes.BLOCK * n for n in (1, 2, 3)] + [len(content)]
    assert {(name, total) for name, _, total in first.calls} == {(str(path), len(content))}
    assert not second.calls
    (tmp_path / "link").symlink_to(path)
    assert Hashes().sha256(tmp_path / "link", second) == plain(content) and not second.calls
    assert {file.name for file in home.iterdir()} == {"hashes.json", "hashes.lock"}


def test_a_file_that_was_just_written_is_not_remembered(tmp_path):
    """It could change again before the file system's clock ticks."""
    path, told = tmp_path / "a", Told()
    path.write_bytes(b"a")
    for _ in range(2):
        assert Hashes().sha256(path, told) == plain(b"a")
    assert len(told.calls) == 2


@pytest.mark.parametrize("how", ["in place", "replaced", "time set back", "longer"])
def test_any_change_is_noticed(how, tmp_path, settle):
    path, content = tmp_path / "a", bytearray(os.urandom(5000))
    path.write_bytes(content)
    settle()
    assert Hashes().sha256(path) == plain(content)
    before = path.stat()
    content[2500] ^= 1
    if how == "replaced":
        (tmp_path / "b").write_bytes(content)
        os.replace(tmp_path / "b", path)
    else:
        content += b"x" * (how == "longer")
        with path.open("r+b") as file:
            file.write(content)
    if how != "in place":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        assert Hashes().sha256(path) == plain(content)
        settle()


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=3)), max_size=6))
def test_hashes_are_those_of_the_present_contents(steps):
    """Files are written and asked for in any order, at any pace."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashes, "SETTLED", SETTLED)
        memory = Path(folder, "memory")
        for number, content in steps:
            path = Path(folder, str(number))
            path.write_bytes(content)
            if number:
                time.sleep(SETTLED + 0.02)
            for _ in range(2):
                assert Hashes(memory).sha256(path) == plain(content)


LONG = json.dumps({f"/models/{i}": f"{i:064x}" for i in range(20)}).encode()


@given(
    st.one_of(
        st.binary(max_size=200),
        st.integers(0, len(LONG)).map(lambda end: LONG[:end]),
        st.recursive(
            st.none() | st.text(max_size=3) | st.floats(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
        ).map(lambda value: json.dumps(value).encode()),
        st.just(b"[" * 200_000),
    )
)
def test_a_damaged_memory_is_made_anew(damaged):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashes, "SETTLED", -1.0)
        path, memory = Path(folder, "a"), Path(folder, "memory")
        path.write_bytes(b"a")
        memory.mkdir()
        (memory / "hashes.json").write_bytes(damaged)
        told = Told()
        assert Hashes(memory).sha256(path, told) == plain(b"a") == Hashes(memory).sha256(path, told)
        assert len(told.calls) == 1 and plain(b"a") in json.loads((memory / "hashes.json").read_text()).values()


@pytest.mark.parametrize("where", ["/proc/none", "a file/memory"])
def test_where_nothing_can_be_remembered(where, tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED", -1.0)
    (tmp_path / "a file").write_bytes(b"a")
    assert Hashes(tmp_path / where).sha256(tmp_path / "a file") == plain(b"a")


def test_without_a_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    (tmp_path / "a").write_bytes(b"a")
    assert Hashes().sha256(tmp_path / "a") == plain(b"a")


def test_many_write_at_once(tmp_path, monkeypatch):
    """None of what they find is lost, and the memory is whole whenever it is read. A lock is one a file that was
    opened, so that threads are as good here as processes."""
    monkeypatch.setattr(hashes, "SETTLED", -1.0)
    memory, each, failed = tmp_path / "memory", 15, []

    def work(number: int) -> None:
        for i in range(each):
            path = tmp_path / f"{number} {i}"
            path.write_bytes(path.name.encode())
            if Hashes(memory).sha256(path) != plain(path.name.encode()):
                failed.append(path)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (memory / "hashes.json").exists():
            json.loads((memory / "hashes.json").read_text())
    assert not failed
    stored = json.loads((memory / "hashes.json").read_text())
    assert set(stored.values()) == {plain(f"{n} {i}".encode()) for n in range(4) for i in range(each)}
    assert {file.name for file in memory.iterdir()} == {"hashes.json", "hashes.lock"}


def test_the_oldest_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED", -1.0)
    monkeypatch.setattr(hashes, "MOST", 3)
    for content in (b"a", b"b", b"c", b"d"):
        (tmp_path / content.decode()).write_bytes(content)
        Hashes(tmp_path / "memory").sha256(tmp_path / content.decode())
    stored = json.loads((tmp_path / "memory" / "hashes.json").read_text())
    assert list(stored.values()) == [plain(content) for content in (b"b", b"c", b"d")]


def test_a_file_that_is_still_written(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(2 * hashes.BLOCK))

    def grow(*_: object) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(OSError, match="still being written"):
        Hashes().sha256(path, grow)
