"""A file that is sent arrives as it is, or not at all."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.cluster.weights import Receiver, WantedFile, check_room, link_tree, locate, pieces, sending, wanted_files
from mochi.errors import MochiError

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "models" / "dit.safetensors"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def wanted(source):
    (file,) = wanted_files([source])
    return file


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "received"


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock")


def send(receiver: Receiver, source: Path, nbytes: int = 1000) -> Path:
    with receiver:
        for piece in pieces(source, nbytes):
            receiver.take(piece)
        return receiver.finish()


def test_a_file_that_was_sent_is_found(source, wanted, home, tmp_path):
    """Without being hashed again; and its name leads to it again."""
    path = send(Receiver(None, wanted), source)
    assert path == home / "weights" / wanted.sha256 / "dit.safetensors" and path.read_bytes() == CONTENT
    source.unlink()
    heard = []
    located = locate([wanted], report=lambda *told: heard.append(told))
    assert located.found == {wanted.path: str(path)} and not heard
    assert link_tree(located, tmp_path / "links").local(str(source)).read_bytes() == CONTENT


@given(content=st.binary(max_size=300), nbytes=st.integers(1, 400))
def test_any_file_in_any_pieces(content, nbytes):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "a")
        source.write_bytes(content)
        found = list(pieces(source, nbytes))
        assert all(len(piece) == nbytes for piece in found[:-1]) and b"".join(found) == content
        file = WantedFile(str(source), len(content), hashlib.sha256(content).hexdigest())
        assert send(Receiver(Path(folder, "r"), file), source, nbytes).read_bytes() == content


def test_what_is_there_already(source, wanted, folder):
    assert not Receiver(folder, wanted).done
    path = send(Receiver(folder, wanted), source)
    again = Receiver(folder, wanted)
    assert again.done and again.finish() == path
    again.take(b"anything")  # what another process sends all the same
    assert path.read_bytes() == CONTENT
    path.write_bytes(b"damaged".ljust(len(CONTENT)))
    assert not Receiver(folder, wanted).done
    assert send(Receiver(folder, wanted), source).read_bytes() == CONTENT


WRONG = {
    "cut short": (lambda parts: parts[:-1], "10,000 of its 10,240 bytes arrived"),
    "too long": (lambda parts: [*parts, b"x"], "more than its 10,240 bytes arrived"),
    "out of order": (lambda parts: [parts[1], parts[0], *parts[2:]], "another SHA-256"),
    "changed": (lambda parts: [bytes(1000), *parts[1:]], "another SHA-256"),
}


@pytest.mark.parametrize("how", WRONG)
def test_nothing_is_left_of_what_is_wrong(how, source, wanted, folder):
    change, words = WRONG[how]
    receiver = Receiver(folder, wanted)
    with pytest.raises(MochiError, match=f"dit.safetensors: was not received, .*{words}.* nothing of it was kept"):
        for piece in change(list(pieces(source, 1000))):
            receiver.take(piece)
        receiver.finish()
    assert not files_in(folder)
    with pytest.raises(ValueError, match="was given up"):
        receiver.take(b"x")


def test_nothing_is_left_where_the_sender_stops(source, wanted, folder):
    with pytest.raises(KeyboardInterrupt), Receiver(folder, wanted) as receiver:
        receiver.take(CONTENT[:1000])
        (_, part) = files_in(folder)
        assert Path(part).name.startswith(".") and part.endswith(".part")
        raise KeyboardInterrupt
    assert not files_in(folder)


Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room(wanted, folder, monkeypatch):
    monkeypatch.setattr(sending.shutil, "disk_usage", lambda path: Usage(10**9, 0, len(CONTENT) + 1))
    check_room(folder, [wanted])
    with pytest.raises(MochiError, match=r"20.5kB of weights are to be sent there, but the disk has 10.2kB free"):
        check_room(folder, [wanted, wanted])
    monkeypatch.setattr(sending.shutil, "disk_usage", lambda path: Usage(10**9, 0, 5))
    with pytest.raises(MochiError, match="make room"):
        Receiver(folder, wanted)
    assert not files_in(folder)


class Slow(FileIO):
    """Writes less than it is given."""

    def write(self, data) -> int:
        return super().write(memoryview(data)[:700])


def test_a_disk_that_takes_less_at_a_time(source, wanted, folder, monkeypatch):
    monkeypatch.setattr(sending, "FileIO", Slow)
    assert send(Receiver(folder, wanted), source).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "the disk is full, .*dit.safetensors needs 10.2kB"), (errno.EIO, "cannot be")]
)
def test_a_disk_that_fails(code, words, source, wanted, folder, monkeypatch):
    class Failing(Slow):
        def write(self, data) -> int:
            if self.tell() >= 3000:
                raise OSError(code, os.strerror(code))
            return super().write(data)

    monkeypatch.setattr(sending, "FileIO", Failing)
    with pytest.raises(MochiError, match=words):
        send(Receiver(folder, wanted), source)
    assert not files_in(folder)


def test_a_folder_that_cannot_be_written_to(wanted, tmp_path):
    (tmp_path / "a file").touch()
    with pytest.raises(MochiError, match="weights cannot be written there: Not a directory"):
        Receiver(tmp_path / "a file" / "weights", wanted)


def test_without_a_home(wanted, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(MochiError, match="set XDG_CACHE_HOME on that machine"):
        Receiver(None, wanted)


KILLED = """
import sys
from mochi.cluster.weights import Receiver, WantedFile
receiver = Receiver(None, WantedFile(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
receiver.take(b"some")
print("writing", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed(source, wanted, home):
    """What a living one writes is not."""
    command = [sys.executable, "-c", KILLED, wanted.path, str(wanted.nbytes), "0" * 64]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "writing\n"
            folder = home / "weights"
            check_room(None, [wanted])
            with Receiver(None, wanted):
                assert len(list(folder.glob(f"{'0' * 64}/.*.part"))) == 1
        finally:
            process.send_signal(signal.SIGKILL)
    assert len(list(folder.glob(f"{'0' * 64}/.*.part"))) == 1
    check_room(None, [wanted])
    assert not files_in(folder)


def test_two_receive_the_same_at_once(source, wanted, folder):
    one, two = Receiver(folder, wanted), Receiver(folder, wanted)
    for piece in pieces(source, 1000):
        one.take(piece)
        two.take(piece)
    assert one.finish() == two.finish() and one.path.read_bytes() == CONTENT
    assert files_in(folder) == [wanted.sha256, f"{wanted.sha256}/dit.safetensors"]


def test_a_file_that_cannot_be_sent(tmp_path):
    with pytest.raises(MochiError, match="none: cannot be read to send it: No such file"):
        list(pieces(tmp_path / "none"))


def test_memory_does_not_grow_with_the_file(tmp_path):
    """A piece at a time: a file of 200 MB, mostly a hole, in pieces of 1 MB."""
    import tracemalloc

    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(200 << 20)
    tracemalloc.start()
    started = time.monotonic()
    assert sum(len(piece) for piece in pieces(source, 1 << 20)) == 200 << 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20, f"{peak} bytes after {time.monotonic() - started:.1f} s"
