"""Records: what need not be made again, and what must be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mochi.batch.job import Job
from mochi.batch.record import Recipe, fingerprint, is_made, remaining, write_record
from mochi.batch.requests import Made
from tests.batch.helpers import RECIPE, job, record_of


def made(job: Job, recipe: Recipe = RECIPE) -> Job:
    """A job with something in the place of its video, and its record."""
    if job.video.suffix:
        job.video.write_bytes(b"video")
    else:
        job.video.mkdir()
        for number in (1, 2):
            (job.video / f"frame_0000{number}.png").write_bytes(bytes([number]))
    write_record(job, recipe, Made({"seconds": 1.0, **fingerprint(job.video)}))
    return job


@pytest.mark.parametrize("output", ["clip.mp4", "clip.png"])
def test_what_is_there_is_made(tmp_path: Path, output: str) -> None:
    odd = made(job(tmp_path / output, prompt="caf\xe9 \U0001f388", cfg=[4, 2.5], images=["a\udce9.png@6=0.5"]))
    assert is_made(odd, RECIPE) and remaining([odd], RECIPE) == []


OTHER_SETTINGS = {
    "prompt": "blue",
    "negative": "red",
    "seed": 7,
    "steps": 3,
    "cfg": 2.0,
    "width": 48,
    "frames": 13,
    "fps": 8.0,
    "teacache": 0.1,
    "images": ("a.png",),
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_other_settings(tmp_path: Path, name: str) -> None:
    first = made(job(tmp_path / "clip.mp4"))
    other = job(tmp_path / "clip.mp4", **{name: OTHER_SETTINGS[name]})
    assert not is_made(other, RECIPE) and remaining([other, first], RECIPE) == [other]


@pytest.mark.parametrize(
    "other",
    [{"model": "b"}, {"variant": "pusa"}, {"asked_dtype": "float8"}, {"loras": ("x.safetensors",)}, {"quality": 50}],
)
def test_another_recipe(tmp_path: Path, other: dict) -> None:
    assert not is_made(made(job(tmp_path / "clip.mp4")), replace(RECIPE, **other))


def test_another_name_of_the_same_file(tmp_path: Path) -> None:
    made(job(tmp_path / "clip.mp4"))
    assert not is_made(job(tmp_path / "clip.webm"), RECIPE)  # whose record it is not


@pytest.mark.parametrize("output", ["clip.mp4", "clip.png"])
def test_a_damaged_or_missing_video(tmp_path: Path, output: str) -> None:
    there = made(job(tmp_path / output))
    file = there.video if there.video.suffix else there.video / "frame_00002.png"
    data = file.read_bytes()
    for other in (data + b"x", data[:-1], bytes(len(data))):
        file.write_bytes(other)
        assert not is_made(there, RECIPE)
    file.write_bytes(data)
    assert is_made(there, RECIPE)
    file.unlink()
    assert not is_made(there, RECIPE)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"run": 3}', '{"run": {}}', "[" * 100_000, "\xff", '{"seed": "x"}', "null"]
)
def test_a_damaged_record(tmp_path: Path, text: str) -> None:
    there = made(job(tmp_path / "clip.mp4"))
    there.record.write_bytes(text.encode("latin-1"))
    assert not is_made(there, RECIPE)
    assert remaining([there], RECIPE) == [there]


def test_a_record_of_an_older_version(tmp_path: Path) -> None:
    there = made(job(tmp_path / "clip.mp4"))
    record = record_of(there)
    del record["run"]["sha256"]
    there.record.write_text(json.dumps(record))
    assert not is_made(there, RECIPE)


def test_a_drawn_seed_is_taken_from_the_record(tmp_path: Path) -> None:
    first = made(job(tmp_path / "clip.mp4", seed=5))
    drawn = replace(job(tmp_path / "clip.mp4", seed=6), seed_drawn=True)
    assert is_made(drawn, RECIPE) and not is_made(replace(drawn, seed_drawn=False), RECIPE)
    first.video.unlink()
    (again,) = remaining([drawn], RECIPE)
    assert again.settings == first.settings and not again.seed_drawn
    other = replace(drawn, settings=replace(drawn.settings, prompt="blue"))
    assert remaining([other], RECIPE) == [other]
    first.record.write_text(json.dumps({**record_of(first), "seed": "many"}))
    assert remaining([drawn], RECIPE) == [drawn]


def test_a_video_whose_frames_nobody_has_checked_is_made_again(tmp_path: Path) -> None:
    unchecked, checked = made(job(tmp_path / "clip.mp4")), replace(RECIPE, checked_for=("nsfw, every 8",))
    assert "checked_for" not in record_of(unchecked)["run"] and not is_made(unchecked, checked)
    made(unchecked, checked)
    assert is_made(unchecked, RECIPE) and is_made(unchecked, checked)
    assert not is_made(unchecked, replace(checked, checked_for=("nsfw, every 4",)))
