"""`--sign`: signed by the command line, and everything that is wrong is said before a model is loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("c2pa")

from mochi.batch import make
from mochi.batch.record import fingerprint
from mochi.cli import generate
from mochi.provenance import read_credentials
from tests.certificates import identity

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sign(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"--sign={identity(tmp_path_factory.mktemp('identity'))}"


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(generate, "open_pipeline", fail)
    monkeypatch.setattr(make, "open_pipeline", fail)


@pytest.mark.parametrize("suffix", ["mp4", "gif", "png"])
def test_signed(run: Run, here: Path, sign: str, model_dir: Path, suffix: str) -> None:
    for name, option in (("plain", []), ("again", []), ("signed", [sign])):
        assert run("a red circle", "--seed=5", "--cfg=4,5,6", f"--output={name}.{suffix}", *option)[0] == 0
    plain, again, signed = (
        here / name if suffix == "png" else here / f"{name}.{suffix}" for name in ("plain", "again", "signed")
    )
    assert fingerprint(plain) == fingerprint(again) != fingerprint(signed) and read_credentials(plain) is None
    found = read_credentials(signed)
    assert found is not None and not found.problems
    said = {"prompt": "a red circle", "seed": 5, "steps": 3, "cfg": "4.0,5.0,6.0", "model": model_dir.name}
    assert found.settings.items() >= said.items() and found.source_types == ("trainedAlgorithmicMedia",)
    records = [json.loads(Path(f"{name}.json").read_text()) for name in ("plain", "signed")]
    assert records[1]["run"].items() >= fingerprint(signed).items()
    assert records[1]["run"].pop("signed_by") == "Jo Maker"
    for record in records:
        for fact in ("seconds", "nbytes", "sha256"):
            del record["run"][fact]
    assert records[1] == {**records[0], "output": f"signed.{suffix}"}


def test_a_format_that_cannot_be_signed(run: Run, here: Path, sign: str, no_model: None) -> None:
    code, _, err = run("red", "--output=clip.webm", sign)
    assert code == 2 and "webm cannot hold content credentials" in err and "choose mp4, gif, png" in err
    Path("list.jsonl").write_text('{"prompt": "red", "output": "clip.webm"}')
    code, _, err = run("--jsonl=list.jsonl", sign)
    assert code == 2 and "list.jsonl, line 1: webm cannot hold" in err
    assert [path.name for path in here.iterdir()] == ["list.jsonl"]


def test_a_bad_line_does_not_end_the_others(run: Run, here: Path, sign: str) -> None:
    lines = [{"prompt": "red", "frames": 1, "output": f"{suffix}/clip.{suffix}"} for suffix in ("webm", "mp4")]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("--jsonl=list.jsonl", sign)[0] == 2
    assert read_credentials(Path("mp4/clip.mp4")) is not None and not Path("webm").exists()


def test_a_bad_file(run: Run, here: Path, no_model: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nope.pem: cannot be read" in run("red", "--sign=nope.pem")[2]
    monkeypatch.setenv("MOCHI_SIGN", "elsewhere.pem")
    code, _, err = run("red")
    assert code == 2 and "elsewhere.pem: cannot be read" in err and "MOCHI_SIGN" in err
    assert not list(here.iterdir())


def test_the_environment_signs(run: Run, here: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCHI_SIGN", str(identity(tmp_path_factory.mktemp("identity"), "Environment")))
    assert run("red", "--frames=1", "--output=clip.mp4")[0] == 0
    found = read_credentials(Path("clip.mp4"))
    assert found is not None and found.signed_by == "Environment"
