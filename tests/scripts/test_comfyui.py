"""Obtaining the host: the paths that need no download and no server."""

import json
import os
import re
from pathlib import Path

import pytest

from scripts import setup_env
from scripts.comfyui import BASE_FOLDERS, PACK_NAME, PROJECT, HostError, find_or_fetch_comfyui, models_of, prepare_base
from scripts.server import ComfyServer, ServerError
from tests.parallel.helpers import wait_until


def test_named_host_must_be_a_comfyui(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"COMFYUI_PATH is .*main\.py"):
        find_or_fetch_comfyui()
    (tmp_path / "main.py").touch()
    (tmp_path / "comfy").mkdir()
    assert find_or_fetch_comfyui() == tmp_path.resolve()


def test_base_is_made_once_and_follows_the_pack(tmp_path):
    base, elsewhere = tmp_path / "base", tmp_path / "pack"
    elsewhere.mkdir()
    link = prepare_base(base, elsewhere) / "custom_nodes" / PACK_NAME
    assert link.resolve() == elsewhere
    (base / "output" / "kept.mp4").touch()
    prepare_base(base)
    assert link.resolve() == PROJECT
    assert (base / "output" / "kept.mp4").exists()
    assert all((base / name).is_dir() for name in BASE_FOLDERS)


def test_requirements_of_the_host_leave_torch_to_us(tmp_path):
    (tmp_path / "requirements.txt").write_text("torch\ntorchvision\ntorchsde\n\n#a comment\nav>=14.2.0  # video\n")
    assert setup_env.host_requirements(tmp_path) == "torchsde\nav>=14.2.0\n"
    (tmp_path / "requirements.txt").unlink()
    assert setup_env.host_requirements(tmp_path) == ""


@pytest.mark.parametrize(
    ("torch", "torchaudio"),
    [
        ("torch==2.14.1", "torchaudio<=2.14.1"),
        ("torch==2.11.*", "torchaudio<=2.11"),
        ("torch == 2.14.1+cpu", "torchaudio<=2.14.1"),
        ("torch>=2.12", "torchaudio"),
    ],
)
def test_sound_is_of_a_version_that_fits_our_torch(monkeypatch, tmp_path, torch, torchaudio):
    ours, host = tmp_path / "requirements-dev.txt", tmp_path / "host"
    ours.write_text(f"# For the tests.\n{torch}  # a comment\ntorchvision==0.29.1\n")
    host.mkdir()
    (host / "requirements.txt").write_text("torch\ntorchaudio>=2.5\nnumpy\n")
    monkeypatch.setattr(setup_env, "REQUIREMENTS", (setup_env.REQUIREMENTS[0], ours))
    assert setup_env.host_requirements(host) == f"{torchaudio}\nnumpy\n"


def test_models_of_the_host_are_listed(tmp_path):
    assert models_of(tmp_path, tmp_path) == []
    (tmp_path / "models" / "vae").mkdir(parents=True)
    option, file = models_of(tmp_path, tmp_path)
    assert option == "--extra-model-paths-config"
    assert json.loads(Path(file).read_text())["host"] == {"base_path": str(tmp_path / "models"), "vae": "vae"}


def test_server_that_dies_shows_its_log(tmp_path):
    (tmp_path / "main.py").write_text("raise SystemExit('no such thing')")
    server = ComfyServer(tmp_path, tmp_path, cpu=True)
    with pytest.raises(ServerError, match="no such thing"), server:
        pass
    assert server.process.poll() is not None


SERVER_WITH_A_HELPER = """
import os, subprocess, sys, time
helper = '''
import os, sys, time
while os.getppid() == int(sys.argv[1]): time.sleep(0.01)
time.sleep(0.5)
open("cleaned_up", "w")
'''
subprocess.Popen([sys.executable, "-c", helper, str(os.getpid())])
open("started", "w")
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="processes form no groups there")
def test_what_a_server_started_has_time_to_clean_up(tmp_path):
    """As the ranks of a video do, which remove the folder in which they met."""
    (tmp_path / "main.py").write_text(SERVER_WITH_A_HELPER)
    server = ComfyServer(tmp_path, tmp_path, cpu=True)
    server.start()
    wait_until((tmp_path / "started").exists, 30)
    server.stop(patience=10)
    assert (tmp_path / "cleaned_up").exists()


def test_requirements_are_the_same_in_both_files_and_never_name_torch():
    listed = [line for line in (PROJECT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    # Read by hand: tomllib is not in Python 3.10.
    table = (PROJECT / "pyproject.toml").read_text().split("\ndependencies = [")[1].split("]")[0]
    declared = re.findall(r'"(.+?)"', table)
    assert listed == declared
    assert not [line for line in listed if line.startswith("torch")]
