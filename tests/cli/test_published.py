"""The command lines of Genmo's readmes, with another name of the module, and a folder as Genmo's script lays it."""

import json
import os
import shlex
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
from huggingface_hub import constants

from mochi import pipeline
from mochi.cli.main import main
from mochi.cli.published import LEMON
from mochi.config import TINY, TINY_WEIGHTS
from mochi.errors import CheckpointError, MochiError
from mochi.model_dir import find_model
from tests.cli.hub import folder, put

GOOGLE = "google/t5-v1_1-xxl"
SMALL = "--width 32 --height 32 --num_frames 7 --num_steps 3 --seed 5 --device cpu"

# https://huggingface.co/genmo/mochi-1-preview and https://github.com/genmoai/mochi; behind the name of the module
OLDER = (
    '--prompt "A hand with delicate fingers picks up a bright yellow lemon from a wooden bowl filled with lemons and '
    "sprigs of mint against a peach-colored background. The hand gently tosses the lemon up and catches it, showcasing "
    "its smooth texture. A beige string bag sits beside the bowl, adding a rustic touch to the scene. Additional "
    "lemons, one halved, are scattered around the base of the bowl. The even lighting enhances the vibrant colors and "
    'creates a fresh, inviting atmosphere." --seed 1710977262 --cfg_scale 4.5 --model_dir "weights"'
)
NEWER = "--model_dir weights/ --cpu_offload"


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, in place of the user's."""
    place = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))
    return place


@pytest.fixture
def published(here: Path, model_dir: Path) -> Path:
    """The folder `weights`, as the published script lays it."""
    return laid_out(here / "weights", model_dir)


def laid_out(place: Path, model: Path, dit: str = "dit.safetensors") -> Path:
    place.mkdir()
    for name, file in ((dit, "dit.safetensors"), *((f"{part}.safetensors",) * 2 for part in ("decoder", "encoder"))):
        (place / name).symlink_to(model / file)
    return place


def frames(line: str, name: str) -> list[bytes]:
    """The frames that a command line makes of the small model."""
    assert main(shlex.split(f"{line} {SMALL} --output {name}.png")) == 0
    return [path.read_bytes() for path in sorted(Path(name).iterdir())]


def test_the_line_of_the_older_readme(here: Path) -> None:
    (here / "weights").symlink_to(TINY_WEIGHTS)
    assert main(shlex.split(OLDER)) == 0
    record = json.loads(Path("mochi_1710977262.json").read_text())
    assert (record["prompt"], record["seed"], record["cfg"]) == (LEMON, 1710977262, 4.5)
    assert (record["width"], record["frames"]) == (TINY.defaults.width, TINY.defaults.frames)


def test_the_line_of_the_newer_readme(
    here: Path, cache: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a prompt it is the published one. T5 is in the hub's cache, where the published code would find it."""
    laid_out(here / "weights", TINY_WEIGHTS)
    found = put(cache, GOOGLE, folder(TINY_WEIGHTS / "t5"))
    assert main(shlex.split(NEWER)) == 0
    (record,) = here.glob("mochi_*.json")
    assert record.with_suffix(".mp4").stat().st_size and json.loads(record.read_text())["prompt"] == LEMON
    assert f"no prompt was given: this is the published example. {LEMON}" in capsys.readouterr().err
    assert f"T5 is that of {GOOGLE} in the hub's cache: {found}" in caplog.text


def test_all_published_options(published: Path, cache: Path, model_dir: Path, here: Path) -> None:
    """They make the video that ours make. A sweep has the published names, and ours beside them."""
    put(cache, GOOGLE, folder(model_dir / "t5"))
    theirs = "--prompt 'a red circle' --negative_prompt blue --cfg_scale 4 --threshold-noise 0.1 --linear-steps 1"
    ours = "generate 'a red circle' --negative=blue --cfg=4 --threshold_noise=0.1 --linear_steps=1"
    first = frames(f"{theirs} --model_dir weights", "theirs")
    assert len(first) == 7 and first == frames(f"{ours} --model-dir {model_dir}", "ours")
    line = {"prompt": "a red circle", "negative_prompt": "blue", "cfg_scale": 4, "num_steps": 3, "num_frames": 7}
    line |= {"width": 32, "height": 32, "seed": 5, "threshold_noise": 0.1, "linear_steps": 1}
    both = {"prompt": "red", "num_frames": 7, "frames": 7}
    Path("sweep.jsonl").write_text("\n".join(map(json.dumps, (line, {**line, "output": "swept.png"}, both))))
    assert main(shlex.split("--model_dir weights --sweep-file sweep.jsonl --out_dir out --device cpu")) == 2
    assert sorted(path.name for path in (here / "out").iterdir()) == ["sweep_0001.json", "sweep_0001.mp4"]
    assert first == [path.read_bytes() for path in sorted((here / "swept").iterdir())]


def test_a_folder_for_outputs(published: Path, model_dir: Path, here: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(shlex.split(f"--prompt red --model_dir weights --t5 {model_dir / 't5'} --out_dir=a/b {SMALL}")) == 0
    assert capsys.readouterr().out.split() == ["a/b/mochi_5.mp4"]


def test_where_t5_comes_from(published: Path, cache: Path, model_dir: Path) -> None:
    """What is named goes first, then what is in the folder, then the cache; its tokenizer may be there alone."""
    expected = frames(f"--prompt red --model-dir {model_dir}", "a")
    t5, tokenizer = model_dir / "t5", model_dir / "t5" / "tokenizer.json"
    assert frames(f"--prompt red --model_dir weights --t5 {t5}", "b") == expected
    put(cache, GOOGLE, {"tokenizer.json": tokenizer, "config.json": t5 / "config.json", "pytorch_model.bin": tokenizer})
    copy = put(cache, "comfyanonymous/flux_text_encoders", {"t5xxl_fp16.safetensors": t5 / "model.safetensors"})
    assert find_model(published).text_encoder.path == copy / "t5xxl_fp16.safetensors"
    assert frames("--prompt red --model_dir weights", "c") == expected
    assert frames(f"--prompt red --model_dir weights --t5 {t5 / 'model.safetensors'}", "d") == expected
    best = put(cache, "genmo/mochi-1-preview", {f"text_encoder/{name}": file for name, file in folder(t5).items()})
    assert find_model(published).text_encoder.path == best / "text_encoder"
    (published / "t5").symlink_to(t5)
    assert find_model(published).text_encoder.path == published / "t5"
    assert find_model(published, t5).text_encoder.path == t5


def test_the_fast_model(here: Path, model_dir: Path) -> None:
    """What the published script fetches with --fast_model."""
    place = laid_out(here / "weights", model_dir, "dit.fast.safetensors")
    assert find_model(place, model_dir / "t5").dit.path.name == "dit.fast.safetensors"


def test_no_t5(published: Path, cache: Path, model_dir: Path, capsys: pytest.CaptureFixture) -> None:
    """It is said where it was looked for, why what is there will not do, and what to do."""
    line = shlex.split(f"--model_dir weights {SMALL}")
    assert main(line) == 2
    said = capsys.readouterr().err
    for part in ("weights: there is no T5 in it", str(cache), "download --file t5xxl_fp16.safetensors", "--t5 PATH"):
        assert part in said
    t5 = model_dir / "t5"
    put(cache, GOOGLE, {"config.json": t5 / "config.json", "pytorch_model.bin": t5 / "config.json"})
    put(cache, "city96/t5-v1_1-xxl-encoder-bf16", folder(TINY_WEIGHTS / "t5"))
    with pytest.raises(CheckpointError, match=r"only there as a pickle.*do not belong together"):
        find_model(published)
    with pytest.raises(CheckpointError, match="do not belong together"):
        find_model(published, TINY_WEIGHTS / "t5")


def test_no_tokenizer_is_known_before_weights_are_read(
    published: Path, cache: Path, here: Path, model_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    (here / "alone.safetensors").symlink_to(model_dir / "t5" / "model.safetensors")
    assert main(shlex.split(f"--model_dir weights --t5 alone.safetensors {SMALL}")) == 2
    said = capsys.readouterr().err
    assert "no tokenizer was found" in said and f"hf download {GOOGLE} spiece.model --local-dir" in said


@pytest.mark.parametrize("name", ["HF_HOME", "HF_HUB_CACHE"])
def test_the_cache_is_where_the_environment_says(tmp_path: Path, name: str, model_dir: Path) -> None:
    found = put(tmp_path / "hub", GOOGLE, folder(model_dir / "t5"))
    others = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    place = {"HF_HOME": tmp_path, "HF_HUB_CACHE": tmp_path / "hub"}[name]
    program = f"from mochi.hub.cache import cached; print(cached({GOOGLE!r}), cached('a/b'))"
    out = subprocess.run(
        [sys.executable, "-c", program], env={**others, name: str(place)}, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == [str(found), "None"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--cpu_offload --gpus 2", "--cpu-offload is for one GPU: with several, --weights offloaded does the same"),
        ("--t5 weights", "--t5 is for weights of --model-dir"),
    ],
)
def test_what_cannot_be(here: Path, line: str, said: str, capsys: pytest.CaptureFixture) -> None:
    assert main(shlex.split(f"generate red {line}")) == 2
    assert said in capsys.readouterr().err


def test_what_is_loaded(published: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offloaded where that is asked for; over ranks, T5 is from anywhere, too."""
    asked, order, t5 = [], signature(pipeline.load_pipeline), model_dir / "t5"

    def load(*how: object) -> None:
        asked.append(order.bind(*how).arguments)
        raise MochiError("enough")

    monkeypatch.setattr(pipeline, "load_pipeline", load)
    for option in ("--device cpu", "--device cpu --cpu_offload", "--ranks 2"):
        assert main(shlex.split(f"--prompt red --model_dir weights --t5 {t5} {option}")) == 2
    assert [how["offload"] for how in asked] == [False, True, False]
    assert [how["parallel"] is None for how in asked] == [True, True, False]
    assert all(how["model"].text_encoder.path == t5 for how in asked)
