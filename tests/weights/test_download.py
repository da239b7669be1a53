"""`python -m mochi download`, against a hub in this process."""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest

from mochi.cli import main as cli
from mochi.hub.catalog import FOLDERS, PUBLISHED, T5_FP16, VAE_BOTH, VARIANTS, hint, readable, source_of
from tests.weights.hub import Hub, serving

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a small file in place of each published one."""
    with serving() as hub:
        for number, file in enumerate(f for files in VARIANTS.values() for f in files):
            hub.files.setdefault(file.repository, {})[file.file] = random.Random(number).randbytes(3000)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100)
        monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
        yield hub


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    (tmp_path / "models" / "vae").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def run(comfyui: Path, capsys: pytest.CaptureFixture) -> Run:
    """Runs the command line; returns the exit code and what it printed (stdout, stderr)."""

    def run(*options: str, place: str = f"--comfyui={comfyui}") -> tuple[int, str, str]:
        code = cli.main(["download", place, *options])
        return code, *capsys.readouterr()

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(hub: Hub, variant: str) -> dict[str, bytes]:
    """What a ComfyUI holds when a variant is there."""
    return {
        str(Path("models", file.folder, file.name)): hub.files[file.repository][file.file] for file in VARIANTS[variant]
    }


def error(result: tuple[int, str, str]) -> str:
    """The message of a failed run: one line."""
    code, _, err = result
    messages = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(messages) == 1, err
    return messages[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_into_comfyui(hub: Hub, run: Run, comfyui: Path, variant: str) -> None:
    code, out, err = run(f"--variant={variant}")
    assert code == 0, err
    assert f"to fetch: {readable(3000 * len(VARIANTS[variant]))}" in out
    assert files(comfyui) == published(hub, variant)


def test_second_call_fetches_nothing(hub: Hub, run: Run, comfyui: Path) -> None:
    assert run()[0] == 0 and len(hub.gets()) == 3
    (code, out, _), before = run(), files(comfyui)
    assert code == 0 and len(hub.gets()) == 3 and "to fetch: nothing" in out and before == published(hub, "bf16")
    run("--variant=fast")
    assert len(hub.gets()) == 4, "variants share files"


def test_model_directory(hub: Hub, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "weights"
    assert run("--variant=published", place=f"--model-dir={folder}")[0] == 0
    names = ["decoder.safetensors", "dit.safetensors", "encoder.safetensors", "t5xxl_fp16.safetensors"]
    assert sorted(files(folder)) == names
    assert run("--variant=gguf", place=f"--model-dir={folder}")[0] == 0
    assert (folder / "mochi-q3_k_m.gguf").is_file()


def test_one_file(hub: Hub, run: Run, comfyui: Path) -> None:
    assert run("--file=mochi_vae.safetensors")[0] == 0
    assert list(files(comfyui)) == [str(Path("models/vae/mochi_vae.safetensors"))]
    assert "absent.safetensors: no published file" in error(run("--file=absent.safetensors"))


def test_dry_run_only_says(hub: Hub, run: Run, comfyui: Path) -> None:
    code, out, _ = run("--dry-run")
    assert code == 0 and "to fetch: 9.00kB" in out and out.count("from Comfy-Org/mochi_preview_repackaged") == 3
    assert not hub.gets() and not files(comfyui) and not (comfyui / "models" / "text_encoders").exists()


def test_short_break_is_mended_in_the_same_call(
    hub: Hub, run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mend(_: float) -> None:
        hub.cut_at = None

    hub.cut_at = 1000
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", mend)
    assert run()[0] == 0 and "bytes=1000-" in hub.gets()
    assert files(comfyui) == published(hub, "bf16")


def test_cut_connection_is_resumed_by_the_next_call(hub: Hub, run: Run, comfyui: Path) -> None:
    hub.cut_at = 1234
    message = error(run("--file=mochi_vae.safetensors"))
    assert "mochi_vae.safetensors: could not be fetched" in message and "what has arrived is kept" in message
    (part,) = (comfyui / "models" / "vae").iterdir()
    assert part.name.startswith(".mochi_vae") and part.suffix == ".part" and part.stat().st_size == 1200
    hub.cut_at, seen = None, len(hub.gets())
    code, out, _ = run("--file=mochi_vae.safetensors")
    assert code == 0 and "to fetch: 1.80kB" in out
    assert hub.gets()[seen:] == ["bytes=1200-"]
    assert list(files(comfyui).values()) == [hub.files[VAE_BOTH.repository][VAE_BOTH.file]]


def test_interrupted_run_is_resumed(hub: Hub, run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    hub.cut_at = 500
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", interrupted)
    assert run("--file=mochi_vae.safetensors")[0] == 130
    hub.cut_at = None
    assert run("--file=mochi_vae.safetensors")[0] == 0 and hub.gets() == [None, "bytes=500-"]


def test_what_changed_on_the_hub_starts_anew(hub: Hub, run: Run, comfyui: Path) -> None:
    hub.cut_at = 1000
    run("--file=mochi_vae.safetensors")
    hub.cut_at, new = None, b"new" * 1000
    hub.files[VAE_BOTH.repository][VAE_BOTH.file] = new
    assert run("--file=mochi_vae.safetensors")[0] == 0 and hub.gets()[-1] is None
    assert (comfyui / "models" / "vae" / "mochi_vae.safetensors").read_bytes() == new


def test_wrong_hash_is_not_kept(hub: Hub, run: Run, comfyui: Path) -> None:
    hub.lies.add(hub.files[VAE_BOTH.repository][VAE_BOTH.file])
    assert "mochi_vae.safetensors: what arrived is not what" in error(run("--file=mochi_vae.safetensors"))
    assert not files(comfyui)


def test_part_that_is_too_long_starts_anew(hub: Hub, run: Run, comfyui: Path) -> None:
    hub.cut_at = 1000
    run("--file=mochi_vae.safetensors")
    hub.cut_at = None
    (part,) = (comfyui / "models" / "vae").iterdir()
    part.write_bytes(b"x" * 5000)
    assert run("--file=mochi_vae.safetensors")[0] == 0 and hub.gets()[-1] is None


def test_small_disk_is_refused(hub: Hub, run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=8999))
    assert re.search("9.00kB are needed, but the disk has 9.00kB free", error(run()))
    assert not hub.gets() and not files(comfyui)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=9000))
    assert run()[0] == 0


def test_disk_need_is_what_is_missing(hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("--file=mochi_vae.safetensors")
    hub.cut_at = 1000
    run("--file=t5xxl_fp16.safetensors")
    hub.cut_at = None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    code, out, _ = run()
    assert code == 0 and "to fetch: 5.00kB" in out


def test_unknown_to_the_hub(hub: Hub, run: Run, comfyui: Path) -> None:
    del hub.files[T5_FP16.repository][T5_FP16.file]
    assert "Comfy-Org/mochi_preview_repackaged has no such file" in error(run())
    del hub.files[T5_FP16.repository]
    assert "Comfy-Org/mochi_preview_repackaged: the hub has no such repository" in error(run())
    assert not hub.gets() and not files(comfyui)


def test_no_network(run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "look at the network" in error(run())
    assert not files(comfyui)


def test_other_file_of_the_name_is_left_alone(hub: Hub, run: Run, comfyui: Path) -> None:
    mine = comfyui / "models" / "vae" / "mochi_vae.safetensors"
    mine.write_bytes(b"mine")
    assert "is another file of that name" in error(run())
    assert mine.read_bytes() == b"mine" and not hub.gets()


def test_not_a_comfyui(hub: Hub, run: Run, tmp_path: Path) -> None:
    assert "is not a ComfyUI" in error(run(place=f"--comfyui={tmp_path / 'models'}"))
    assert not hub.requests


def test_folder_that_cannot_be_written_to(hub: Hub, run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (comfyui / "models" / "text_encoders").write_bytes(b"")
    assert "text_encoders: is not a folder that you can write to" in error(run())
    (comfyui / "models" / "text_encoders").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "models: is not a folder that you can write to" in error(run())
    assert not hub.gets()


def test_disk_that_fills_up(hub: Hub, run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mochi.hub.download.http_get", full)
    assert "mochi_preview_bf16.safetensors: cannot be written (No space left on device)" in error(run())


def test_catalog() -> None:
    assert source_of("mochi/t5xxl_fp16.safetensors") is source_of("mochi\\t5xxl_fp16.safetensors") is T5_FP16
    assert source_of("mine.safetensors") is None and "--comfyui DIR" in hint("mine.safetensors")
    assert {file.folder for file in PUBLISHED.values()} == set(FOLDERS.values())
    distinct = {file for variant in VARIANTS.values() for file in variant}
    assert len({file.name for file in distinct}) == len(distinct), "a name says which file it is"
    for word in ("Comfy-Org/mochi_preview_repackaged", "models/vae", "--file mochi_vae.safetensors", "920MB"):
        assert word in hint("mochi_vae.safetensors")
