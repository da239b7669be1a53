"""`python -m mochi ui`: what is wrong is said before a model is loaded."""

import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from mochi.cli import main as cli
from mochi.cli import ui


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mochi.ui.maker.open_pipeline", lambda *_: pytest.fail("a model is loaded"))
    monkeypatch.setattr("mochi.ui.owner.Page", lambda: SimpleNamespace(close=lambda: None))  # it would take seconds
    return tmp_path


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--listen"], "--listen lets everybody in who reaches this machine: add --auth NAME:PASSWORD"),
        (["--auth=ada"], "--auth: user 1 is not written NAME:PASSWORD"),
        (["--auth=@gone"], "--auth @gone: the file cannot be read"),
        (["--port=70000"], "port is 70000, but must be between 1 and 65535"),
        (["--listen=203.0.113.7", "--auth=a:b"], "203.0.113.7: the page cannot be served there"),
        (["--quality=101"], "quality is 101, but must be between 0 and 100"),
        (["--model-dir=gone"], "gone: there is no such model directory"),
        (["--lora=gone.safetensors"], "gone.safetensors"),
        (["--folder=file"], "file"),
    ],
)
def test_wrong_options(options: list[str], complaint: str, here: Path, capsys: pytest.CaptureFixture) -> None:
    (here / "file").touch()
    assert cli.main(["ui", *options]) == 2
    assert complaint in capsys.readouterr().err


def test_passwords_are_not_repeated(capsys: pytest.CaptureFixture, here: Path) -> None:
    (here / "users").write_text("ada:engine\nsecret\n")
    assert cli.main(["ui", "--auth=@users"]) == 2
    error = capsys.readouterr().err
    assert "user 2 is not written" in error and "secret" not in error and "engine" not in error


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["ui", f"--port={port}"]) == 2
    assert f"127.0.0.1, port {port}: the page cannot be served there" in capsys.readouterr().err


@pytest.mark.parametrize("found", [PackageNotFoundError(), ["5.50.0"]], ids=["none", "too old"])
def test_without_gradio(found: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(ui, "version", Mock(side_effect=found))
    assert cli.main(["ui"]) == 2
    assert "gradio 6 or newer, which is not installed: pip install 'gradio>=6'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "unwanted"), [("['generate', '--help']", {"gradio"}), ("['--help']", {"gradio", "torch"})]
)
def test_a_command_imports_what_it_needs(command: str, unwanted: set[str]) -> None:
    program = f"import sys\nfrom mochi.cli import main as cli\ntry: cli.main({command})\nexcept SystemExit: pass\n"
    program += f"assert not {unwanted} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
