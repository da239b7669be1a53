"""A machine finds a file wherever it has the same content, and says what it has where it has not."""

import errno
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.cluster.weights import Hashes, Located, Tree, WantedFile, complain, link_tree, locate, wanted_files
from mochi.config import TINY_WEIGHTS
from mochi.crossing import decode, encode
from mochi.errors import MochiError


def wanted(path: Path, content: bytes, chosen: bool = False) -> WantedFile:
    """A file of another machine."""
    return WantedFile(str(path), len(content), hashlib.sha256(content).hexdigest(), chosen)


def write(path: Path, content: bytes = b"content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def file(tmp_path):
    return wanted(tmp_path / "models" / "dit.safetensors", b"content")


def test_at_its_own_path(file):
    write(Path(file.path))
    located = locate([file])
    assert located == Located((file,), {file.path: file.path}, {}) and not located.lacking
    assert link_tree(located, "/proc/none") == Tree("")
    complain({"a": located})


@pytest.mark.parametrize("content", [None, b"CONTENT", b"longer content"])
@pytest.mark.parametrize("name", ["dit.safetensors", "another name"])
def test_below_a_folder_that_is_named(file, content, name, tmp_path, monkeypatch):
    if content is not None:
        write(Path(file.path), content)
    path = write(tmp_path / "data" / "inner" / "deep" / name)
    assert locate([file], [tmp_path / "data"]).found == {file.path: str(path)}
    monkeypatch.setenv("MOCHI_WEIGHTS", os.pathsep.join([str(tmp_path / "none"), "", str(tmp_path / "data")]))
    assert locate([file]).found == {file.path: str(path)}
    monkeypatch.setenv("MOCHI_WEIGHTS", "~/inner")
    monkeypatch.setenv("HOME", str(tmp_path / "data"))
    assert locate([file]).found == {file.path: str(path)}
    monkeypatch.delenv("MOCHI_WEIGHTS")
    assert not locate([file]).found


@pytest.mark.timeout(60)
def test_links_are_followed_and_end(file, tmp_path):
    write(tmp_path / "disk" / "x.bin")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(tmp_path / "disk")
    for name in ("round", "and round"):  # every turn would double the ways
        (tmp_path / "disk" / name).symlink_to(tmp_path / "data")
    (tmp_path / "disk" / "broken").symlink_to(tmp_path / "nothing")
    assert locate([file], [tmp_path / "data"]).found == {file.path: str(tmp_path / "data" / "models" / "x.bin")}


def test_what_still_arrives_is_not_taken(file, tmp_path):
    write(tmp_path / "data" / ".0123.part")
    assert not locate([file], [tmp_path / "data"]).found


def test_the_built_in_model_is_found_wherever_the_code_is(tmp_path):
    content = (TINY_WEIGHTS / "dit.safetensors").read_bytes()
    elsewhere = wanted(tmp_path / "code" / "dit.safetensors", content)
    assert locate([elsewhere]).found == {elsewhere.path: str(TINY_WEIGHTS / "dit.safetensors")}


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (None, "is not there"),
        (b"CONTENT", "has its 7.00B, but another content"),
        (b"content of more bytes" * 1000, "has 21.0kB, not 7.00B"),
        ("folder", "is a folder there"),
    ],
)
def test_what_is_there_instead(file, there, words, tmp_path):
    if there == "folder":
        Path(file.path).mkdir(parents=True)
    elif there is not None:
        write(Path(file.path), there)
    assert locate([file]).missing == {file.path: words}
    near = write(tmp_path / "data" / "dit.safetensors", b"other")
    write(tmp_path / "data" / "unlike", b"other")
    assert locate([file], [tmp_path / "data"]).missing == {file.path: f"{words}; {near} has 5.00B, not 7.00B"}


def test_sizes_that_look_alike(tmp_path):
    path = write(tmp_path / "a", bytes(100_001))
    assert locate([wanted(path, bytes(100_002))]).missing == {str(path): "has 100,001 bytes, not 100,002"}


def test_a_file_that_cannot_be_read(file):
    class Unreadable(Hashes):  # root, as whom containers run, can read everything
        def sha256(self, path, report=None):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    write(Path(file.path))
    assert locate([file], hashes=Unreadable()).missing == {file.path: "cannot be read (Permission denied)"}


def test_only_files_of_the_right_size_are_hashed(file, tmp_path):
    heard = []
    write(Path(file.path), b"longer than that")
    write(tmp_path / "data" / "dit.safetensors", b"of another size")
    same = write(tmp_path / "data" / "unlike")
    located = locate([file], [tmp_path / "data"], report=lambda path, *_: heard.append(path))
    assert located.found == {file.path: str(same)} and heard == [str(same)]


def test_one_content_is_sent_once(tmp_path):
    files = [wanted(tmp_path / name, content) for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2"))]
    assert [file.sha256 for file in locate(files).lacking] == [files[0].sha256, files[2].sha256]


def test_what_is_found_crosses_between_machines(file):
    for value in (file, locate([file]), link_tree(Located((), {}, {}), "/proc/none")):
        assert decode(encode(value)) == value


CONTENTS = st.sampled_from([b"", b"a", b"b", b"aa", b"ab", b"ba"])
PLACES = st.tuples(st.sampled_from(["", "sub/", "sub/deep/"]), st.sampled_from(["x", "y", "z"])).map("".join)


@given(
    theirs=st.dictionaries(PLACES, CONTENTS, min_size=1, max_size=5),
    own=st.dictionaries(PLACES, CONTENTS, max_size=5),
    data=st.dictionaries(PLACES, CONTENTS, max_size=5),
)
def test_found_where_the_content_is(theirs, own, data):
    """Against what the contents say; and a tree of links has the wanted files, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        here, named, memory = Path(folder, "models"), Path(folder, "data"), Hashes(Path(folder, "memory"))
        files = [wanted(here / place, content) for place, content in theirs.items()]
        for place, content in own.items():
            write(here / place, content)
        for place, content in data.items():
            write(named / place, content)
        located = locate(files, [named], memory, received=Path(folder, "none"))
        for place, content in theirs.items():
            path = str(here / place)
            if own.get(place) == content:
                assert located.found[path] == path
            elif content in data.values():
                assert Path(located.found[path]).read_bytes() == content and located.found[path].startswith(str(named))
            else:
                assert path not in located.found
        assert located.found.keys() | located.missing.keys() == {file.path for file in files}
        assert not located.found.keys() & located.missing.keys()
        if located.missing:
            with pytest.raises(MochiError, match="1 of 1 machines lacks weights"):
                complain({"here": located})
            return
        tree = link_tree(located, Path(folder, "links"))
        for place, content in theirs.items():
            assert tree.local(str(here / place)).read_bytes() == content
        if tree.root:
            linked = [path for path in tree.local(str(here)).rglob("*") if not path.is_dir()]
            assert sorted(linked) == sorted(tree.local(str(here / place)) for place in theirs)
            assert link_tree(located, Path(folder, "links")) == tree
            assert len(list(Path(folder, "links").iterdir())) == 1
        else:
            assert all(own.get(place) == content for place, content in theirs.items())


@pytest.mark.parametrize(
    ("other", "counts"),
    [
        ("notes.txt", (False, False)),
        ("model_index.json", (False, False)),
        ("tokenizer_config.json", (False, False)),
        ("video.json", (False, False)),
        ("another.safetensors", (False, True)),
        ("ANOTHER.GGUF", (False, True)),
        ("model.safetensors.index.fp16.json", (False, True)),
        ("latents.json", (False, True)),
        ("t5/config.json", (False, True)),
        ("scheduler/config.json", (False, False)),
        ("tokenizer/spiece.model", (True, True)),
        ("spiece.model", (True, True)),
        ("adapter_config.json", (True, True)),
    ],
)
def test_what_else_would_be_read_there(other, counts, tmp_path):
    """Files are linked away from those that this machine has beside them, and the other one has not."""
    for chosen, expected in zip((False, True), counts):
        path = write(tmp_path / "models" / "dit.safetensors")
        located = locate([wanted(path, b"content", chosen)])
        assert link_tree(located, tmp_path / "links") == Tree("")
        write(tmp_path / "models" / other, b"other")
        tree = link_tree(located, tmp_path / "links")
        assert bool(tree.root) == expected
        assert not expected or os.listdir(tree.local(str(tmp_path / "models"))) == ["dit.safetensors"]
        shutil.rmtree(tmp_path / "models")


def test_folders_of_a_model_that_are_wanted_do_not_count_as_others(tmp_path):
    paths = [write(tmp_path / name) for name in ("dit.safetensors", "t5/model.safetensors", "tokenizer/spiece.model")]
    assert link_tree(locate([wanted(path, b"content", True) for path in paths]), tmp_path / "links") == Tree("")


def test_a_tree_that_cannot_be_made(file, tmp_path):
    write(tmp_path / "data" / "x")
    located = locate([file], [tmp_path / "data"])
    write(tmp_path / "a file")
    with pytest.raises(MochiError, match="a file: links to weights cannot be made there: Not a directory"):
        link_tree(located, tmp_path / "a file")
    with pytest.raises(ValueError, match="missing"):
        link_tree(locate([file]), tmp_path)


@pytest.mark.parametrize("path", ["models/dit", "/models/../etc", "../a"])
def test_a_tree_has_absolute_paths_only(path):
    for root in ("", "/links"):
        with pytest.raises(ValueError, match="is not absolute"):
            Tree(root).local(path)


def test_one_error_for_all_machines(tmp_path):
    files = [wanted(tmp_path / "m" / f"{number}.safetensors", b"content") for number in range(6)]
    good = Located(tuple(files), {file.path: file.path for file in files}, {})
    lacks_all = locate(files, [tmp_path / "data"])
    write(Path(files[0].path), b"CONTENT")
    lacks_one = Located(tuple(files), good.found, locate(files[:1]).missing)
    with pytest.raises(MochiError) as caught:
        complain({"alpha": good, "beta": lacks_all, "gamma": lacks_one, "delta": good, "epsilon": lacks_all})
    here = tmp_path / "m"
    assert str(caught.value).splitlines() == [
        "3 of 5 machines lack weights:",
        "- alpha, delta: all 6 files are there",
        "- beta, epsilon: 6 of 6 files are missing",
        *(f"  {here / f'{number}.safetensors'} is not there" for number in range(4)),
        "  and 2 more",
        f"  searched: {tmp_path / 'data'} (there is no such folder)",
        "- gamma: 1 of 6 files are missing",
        f"  {here / '0.safetensors'} has its 7.00B, but another content",
        "  MOCHI_WEIGHTS names no folder there",
        "Put these files there under the same paths; or name a folder that has them, below it and under any names, in "
        "the environment variable MOCHI_WEIGHTS where Ray is started on that machine; or have them sent: "
        "--send-weights, on the canvas `send_weights`.",
    ]


def test_a_file_that_cannot_be_hashed_is_named(tmp_path):
    with pytest.raises(MochiError, match="none: cannot be read to compare it on other machines: No such file"):
        wanted_files([tmp_path / "none"])
