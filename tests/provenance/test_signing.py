"""A signed video verifies with the library's own reader, plays as before, and shows every later change."""

import contextlib
import errno
import io
import json
import os
import socket
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

c2pa = pytest.importorskip("c2pa")

from mochi import __version__  # noqa: E402
from mochi.errors import MochiError  # noqa: E402
from mochi.provenance import SIGNED, Signer, read_credentials  # noqa: E402
from mochi.provenance import signer as signer_module  # noqa: E402
from mochi.provenance.manifest import manifest  # noqa: E402
from mochi.video import VideoWriter  # noqa: E402
from tests.certificates import identity, party  # noqa: E402

LABEL = "mochi-parallel.generation"
MADE_BY_AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
METADATA = {"prompt": json.dumps({"1": {"class_type": "A", "inputs": {}}}), "workflow": json.dumps({"nodes": [1]})}
SETTINGS = {"prompt": 'é 月 "x" \0 \N{GRINNING FACE}', "seed": 2**64 - 1, "fps": 29.97, "linear_steps": None}
FORMATS = [*SIGNED]
FRAMES = np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), np.uint8)


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(identity(tmp_path_factory.mktemp("identity")))


def write(path: Path, signer: Signer | None = None, settings: dict = SETTINGS, frames: np.ndarray = FRAMES) -> Path:
    seal = None if signer is None else signer.seal(settings)
    with VideoWriter(path, 24, (64, 48), metadata=METADATA, seal=seal) as writer:
        writer.write(frames)
    return writer.path


def read(path: Path) -> dict[str, Any]:
    """What the library itself finds, without our settings."""
    with c2pa.Reader(str(path)) as reader:
        return json.loads(reader.json())


def codes(store: dict[str, Any]) -> set[str]:
    return {failure["code"] for failure in store["validation_results"]["activeManifest"]["failure"]}


def first(video: Path) -> Path:
    return min(video.iterdir()) if video.is_dir() else video


def played(video: Path) -> np.ndarray:
    if video.is_dir():
        return np.stack([np.asarray(Image.open(path)) for path in sorted(video.iterdir())])
    with av.open(str(video)) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


@pytest.mark.parametrize("format", FORMATS)
def test_a_signed_video_verifies(format: str, signer: Signer, tmp_path: Path) -> None:
    video = write(tmp_path / f"clip.{format}", signer)
    assert list(tmp_path.iterdir()) == [video]
    for file in sorted(video.iterdir()) if video.is_dir() else [video]:
        store = read(file)
        assert store["validation_state"] == "Valid" and codes(store) == {"signingCredential.untrusted"}
        active = store["manifests"][store["active_manifest"]]
        assert active["signature_info"]["common_name"] == "Jo Maker"
        assert active["claim_generator_info"][0].items() >= {"name": "mochi-parallel", "version": __version__}.items()
        said = {assertion["label"]: assertion["data"] for assertion in active["assertions"]}
        (action,) = said["c2pa.actions.v2"]["actions"]
        assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", MADE_BY_AI)
        assert action["softwareAgent"]["name"] == "mochi-parallel"
        assert said[LABEL] == {"program": f"mochi-parallel {__version__}", **SETTINGS}
    ours = read_credentials(video)
    assert ours is not None and ours.matches and not ours.problems and not ours.trusted
    assert (ours.signed_by, ours.organisation) == ("Jo Maker", "Studio of Jo Maker")
    assert ours.source_types == ("trainedAlgorithmicMedia",) and ours.settings["seed"] == 2**64 - 1
    assert ours.made is not None and ours.stamped is None


@pytest.mark.parametrize("format", FORMATS)
def test_it_plays_as_before_and_keeps_its_metadata(format: str, signer: Signer, tmp_path: Path) -> None:
    plain = write(tmp_path / f"plain.{format}")
    again = write(tmp_path / f"again.{format}")
    video = write(tmp_path / f"clip.{format}", signer)
    assert first(plain).read_bytes() == first(again).read_bytes(), "unsigned files are the same, always"
    assert read_credentials(plain) is None
    assert np.array_equal(played(video), played(plain))
    if format == "mp4":
        with av.open(str(video)) as film:
            assert METADATA.items() <= film.metadata.items() and film.streams.video[0].average_rate == 24
        assert [name for name, _ in boxes(video)] == [b"ftyp", b"uuid", b"moov", b"free", b"mdat"]
        assert video.read_bytes().index(b'"class_type"') < 64 * 2**20  # as far as the editor looks
    elif format == "gif":
        with Image.open(video) as gif:
            assert json.loads(gif.info["comment"]) == METADATA and gif.info["loop"] == 0
    else:
        for file in video.iterdir():
            with Image.open(file) as picture:
                assert METADATA.items() <= picture.text.items()


def boxes(video: Path) -> list[tuple[bytes, int]]:
    """The boxes of an mp4, each with where it begins."""
    data, at, found = video.read_bytes(), 0, []
    while at < len(data):
        found.append((data[at + 4 : at + 8], at))
        at += int.from_bytes(data[at : at + 4], "big")
    return found


@pytest.fixture(scope="session")
def signed(signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("signed") / "clip.mp4", signer)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(place=0.0, bit=0)
def test_any_changed_byte_of_the_film_is_seen(
    place: float, bit: int, signed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of all that says how it looks and what is embedded in it: the boxes moov and mdat."""
    starts = dict(boxes(signed))
    data = bytearray(signed.read_bytes())
    inside = [*range(starts[b"moov"] + 8, starts[b"free"]), *range(starts[b"mdat"] + 8, len(data))]
    data[inside[int(place * len(inside))]] ^= 1 << bit
    changed = tmp_path_factory.mktemp("changed") / "clip.mp4"
    changed.write_bytes(data)
    found = read_credentials(changed)
    assert found is not None and found.problems and not found.matches
    with contextlib.suppress(c2pa.C2paError):  # where the file is so damaged that it has no meaning any more
        assert "assertion.bmffHash.mismatch" in codes(read(changed))
        assert found.problems == ("changed after signing",) and found.signed_by == "Jo Maker"


def test_changed_pictures(signer: Signer, tmp_path: Path) -> None:
    gif, folder = write(tmp_path / "clip.gif", signer), write(tmp_path / "clip.png", signer)
    third = folder / "frame_00003.png"
    for path in (gif, third):
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
    found = read_credentials(gif)
    assert found is not None and found.problems == ("changed after signing",)
    Image.fromarray(FRAMES[0]).save(folder / "frame_00002.png")
    found = read_credentials(folder)
    assert found is not None
    assert found.problems == ("frame_00002.png: no credentials", "frame_00003.png: changed after signing")


def test_a_certificate_that_expires_later(tmp_path: Path) -> None:
    """No authority says that the signature was made before; but the file is as it was, or is not."""
    root = party("Test Root", authority=True)
    who = party("Jo Maker", root, days=(-1, 4 / 86400))
    (tmp_path / "identity.pem").write_bytes(who.key_pem() + who.pem + root.pem)
    video = write(tmp_path / "clip.mp4", Signer(tmp_path / "identity.pem"))
    time.sleep(max(0.0, (who.certificate.not_valid_after_utc - datetime.now(timezone.utc)).total_seconds()) + 1.1)
    found = read_credentials(video)
    assert found is not None and found.matches and found.problems == ("the certificate has expired",)
    data = bytearray(video.read_bytes())
    data[-100] ^= 1
    video.write_bytes(data)
    found = read_credentials(video)
    assert found is not None and not found.matches and "changed after signing" in found.problems


def test_changed_claims(signed: Path, tmp_path: Path) -> None:
    """What the credentials say cannot be changed either, nor moved to another film."""
    data = signed.read_bytes()
    for old, new in ((b"trainedAlgorithmicMedia", b"digitalCapture/////////"), (b"29.97", b"29.98")):
        assert data.count(old) == 1
        (tmp_path / "clip.mp4").write_bytes(data.replace(old, new))
        found = read_credentials(tmp_path / "clip.mp4")
        assert found is not None and found.problems == ("what the credentials say was changed after signing",)
    other = write(tmp_path / "other.mp4", frames=FRAMES[::-1]).read_bytes()
    end_of_type = boxes(signed)[1][1]
    credentials = data[end_of_type : boxes(signed)[2][1]]
    (tmp_path / "clip.mp4").write_bytes(other[:end_of_type] + credentials + other[end_of_type:])
    found = read_credentials(tmp_path / "clip.mp4")
    assert found is not None and found.problems == ("changed after signing",)


def test_webm_is_refused(signer: Signer, tmp_path: Path) -> None:
    with pytest.raises(MochiError, match=r"webm cannot hold content credentials.*choose mp4, gif, png"):
        signer.check("webm")
    with pytest.raises(MochiError, match="webm cannot hold"):
        write(tmp_path / "clip.webm", signer)
    assert not list(tmp_path.iterdir())
    assert read_credentials(write(tmp_path / "clip.webm")) is None


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MochiError, OSError])
def test_nothing_stays_where_signing_fails(
    format: str, error: type[BaseException], signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Signer, source: Any, target: Any, *_: Any) -> None:
        target.write(source.read(100))
        raise error("a planned failure")

    old = write(tmp_path / f"clip.{format}") if format != "png" else tmp_path / "clip"
    before = old.read_bytes() if format != "png" else b""
    monkeypatch.setattr(Signer, "_sign", fail)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else MochiError, match="a planned failure"):
        write(tmp_path / f"clip.{format}", signer)
    if format == "png":
        assert not list(tmp_path.iterdir())
    else:
        assert list(tmp_path.iterdir()) == [old] and old.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_while_signing(format: str, signer: Signer, tmp_path: Path) -> None:
    """The system lets the video be written, and not the signed one, which is longer."""
    import resource

    plain = write(tmp_path / f"plain.{format}")
    most = max(file.stat().st_size for file in (plain.iterdir() if plain.is_dir() else [plain])) + 1000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        with pytest.raises(MochiError, match="the video could not be written: File too large"):
            write(tmp_path / f"clip.{format}", signer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [plain]


def test_the_reason_of_a_failed_write_is_told(signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library says only that it could not write, and the next write may be a success again."""

    class Full(io.FileIO):
        failed = False

        def write(self, data: Any) -> int:
            if not Full.failed:
                Full.failed = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr(signer_module, "FileIO", Full)
    with pytest.raises(MochiError, match="the disk is full"):
        write(tmp_path / "clip.mp4", signer)
    assert not list(tmp_path.iterdir())


def test_credentials_elsewhere_are_not_fetched(signer: Signer, tmp_path: Path) -> None:
    """A file can name an address that has its credentials. Whoever listens there hears nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/clip.c2pa"
        frame = first(write(tmp_path / "clip.png"))
        who = signer._identity
        info = c2pa.C2paSignerInfo(who.algorithm.encode(), who.chain, who.key, None)
        with c2pa.Builder(manifest({})) as builder, frame.open("rb") as source:
            builder.set_no_embed()
            builder.set_remote_url(address)
            with (tmp_path / "elsewhere.png").open("w+b") as target:
                builder.sign(c2pa.Signer.from_info(info), "image/png", source, target)
        found = read_credentials(tmp_path / "elsewhere.png")
        assert found is not None and not found.signed_by and address in found.problems[0]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


# With few digits, as people write them: the library may read others as the next one.
@pytest.mark.parametrize(
    "store",
    [
        {},
        {"active_manifest": "a", "manifests": {}},
        {"active_manifest": "a", "manifests": {"a": {"assertions": [{"label": "c2pa.actions", "data": [1]}]}}},
        {"active_manifest": "a", "manifests": {"a": {"assertions": [{"data": 1}]}}},
        {"active_manifest": "a", "manifests": {"a": {"claim_generator_info": [1]}}},
    ],
)
def test_what_others_sign_in_unknown_forms(store: dict, signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c2pa.Reader, "json", lambda _: json.dumps(store))
    found = read_credentials(signed)
    assert found is not None and not found.matches and "unknown form" in found.problems[0]


numbers = st.integers(-(2**63), 2**64 - 1) | st.integers(-(10**9), 10**9).map(lambda number: number / 1000)
values = st.none() | st.booleans() | numbers | st.text(max_size=20)


@given(settings=st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), values | st.lists(numbers)))
@example(settings={"cfg": [1, 2, 3], "x": "\ud800", "seed": 2**64 - 1})
def test_any_settings_are_read_back(settings: dict, signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rows of numbers as a text, and halves of characters as escapes."""
    frame = tmp_path_factory.mktemp("frame") / "frame.png"
    Image.new("RGB", (1, 1)).save(frame)
    signer.seal(settings)(frame)
    found = read_credentials(frame)
    assert found is not None and not found.problems

    def expected(value: Any) -> Any:
        if isinstance(value, str):
            return value.encode("utf-8", "backslashreplace").decode()
        return ",".join(map(str, value)) if isinstance(value, list) and value else value

    said = {name: expected(value) for name, value in settings.items()}
    assert found.settings == {"program": f"mochi-parallel {__version__}", **said}


def test_the_version_is_that_of_the_package() -> None:
    project = Path("pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{__version__}"\n' in project
