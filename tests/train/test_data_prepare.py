"""Preparing what is trained on: the values are the encoders', nothing is computed twice, nothing breaks for good."""

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mochi.checkpoint import Checkpoint, load_encoder
from mochi.errors import Cancelled, MochiError
from mochi.model_dir import ModelDir, find_model
from mochi.text import load_prompt_encoder
from mochi.train.data import DataSettings, TrainingSet, contact_sheet, encoding, prepare
from mochi.train.data.cache import NAME
from mochi.train.data.fingerprint import fingerprint
from tests.train.clips import number_of, numbered, with_caption, write_clip, write_numbered

Calls = list[str]


@pytest.fixture(scope="module")
def model() -> ModelDir:
    return find_model()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What was loaded and encoded."""
    made: Calls = []

    def watched(name: str):
        original = getattr(encoding, name)

        def call(*args, **kwargs):
            made.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(encoding, name, call)

    for name in ("load_encoder", "load_prompt_encoder", "as_video", "_compact"):
        watched(name)
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clips (one with a window of its own for each of two settings), an image, and a clip that is cut off."""
    folder = tmp_path / "clips"
    folder.mkdir()
    write_numbered(with_caption(folder / "b long.mkv", "numbers"), 40, 12)
    write_numbered(with_caption(folder / "c.mkv", "more numbers"), 9, 12)
    Image.fromarray(numbered(77)).save(with_caption(folder / "a.png", "77"))
    whole = write_numbered(folder / "whole.mp4", 20, 12)
    with_caption(folder / "d.mp4", "cut").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()
    return folder


SETTINGS = DataSettings(sizes=((48, 32),), frames=(13,), windows=2)


def prepared(data: Path, model: ModelDir, settings: DataSettings = SETTINGS, **options) -> TrainingSet:
    return prepare(data, settings, model, **{"device": "cpu", "dtype": torch.float32, **options})


def test_values(data: Path, model: ModelDir) -> None:
    found = prepared(data, model)
    assert [example.name.split(" from")[0] for example in found.examples] == [
        "a.png",
        "b long.mkv",
        "b long.mkv",
        "c.mkv",
    ]
    assert [example.bucket for example in found.examples] == [(48, 32, 1), (48, 32, 13), (48, 32, 13), (48, 32, 7)]
    assert [name for name, _ in found.skipped] == ["d.mp4"]
    encoder, text = load_encoder(model.encoder, torch.float32), load_prompt_encoder(model.text_encoder)
    for example in found.examples:
        thumbnails = example.thumbnails()
        first = number_of(thumbnails[0].numpy())
        if "from" in example.name:
            assert example.name.endswith(f"from {first / 12:.1f} s")
        frames = np.stack([numbered(first + number) for number in range(example.bucket[2])])  # as they were written
        assert torch.equal(thumbnails[-1], torch.from_numpy(frames[-1]))
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with torch.no_grad():
            wanted = encoder(video)
        for made, value in zip(example.posterior(), wanted, strict=True):
            assert made.dtype == torch.float32 and made.shape == (12, *example.shape)
            torch.testing.assert_close(made, value[0], atol=2e-5, rtol=2e-5)
        features, mask = text(example.caption)
        assert torch.equal(example.features(), features[mask]) and len(example.features()) == mask.sum()
    with safe_open(found.examples[1].latents, framework="pt") as file:
        assert {"file", "encoder", "dtype", "width", "height", "first", "frames", "fps"} <= file.metadata().keys()


def test_a_second_start_computes_nothing(data: Path, model: ModelDir, calls: Calls, monkeypatch) -> None:
    first = prepared(data, model)
    assert calls.count("as_video") == 4 and calls.count("_compact") == 3 and calls.count("load_encoder") == 1
    calls.clear()
    monkeypatch.setattr("mochi.train.data.cache._sha256", lambda item: pytest.fail(f"{item.name} is read again"))
    (data / "d.mp4").unlink()  # the damaged one is tried again, since what could not read it may be mended
    again = prepared(data, model)
    assert again.examples == first.examples and again.key == first.key and not calls


def test_only_what_changed_is_computed(data: Path, model: ModelDir, calls: Calls) -> None:
    first = prepared(data, model)
    calls.clear()
    (data / "a.txt").write_text("seventy-seven")
    second = prepared(data, model)
    assert calls == ["load_prompt_encoder", "_compact"] and second.key != first.key
    assert [example.latents for example in second.examples] == [example.latents for example in first.examples]
    calls.clear()
    Image.fromarray(numbered(78)).save(data / "a.png")
    third = prepared(data, model)
    assert calls == ["load_encoder", "as_video"] and third.key != second.key
    known = {example.latents for example in third.examples}
    for seed in range(1, 5):  # other places, some of which may be the same ones
        calls.clear()
        elsewhere = {example.latents for example in prepared(data, model, replace(SETTINGS, seed=seed)).examples}
        assert calls.count("as_video") == len(elsewhere - known) and "_compact" not in calls
        known |= elsewhere
    assert len(known) > len(third.examples) + 2
    half = prepared(data, model, dtype=torch.bfloat16)
    assert half.key != third.key and half.examples[0].posterior().mean.dtype == torch.float32
    with safe_open(half.examples[0].latents, framework="pt") as file:
        assert file.get_tensor("mean").dtype == torch.bfloat16


def test_a_list_and_a_folder_elsewhere(data: Path, model: ModelDir, tmp_path: Path) -> None:
    """The same clips in the same order, in another cache."""
    (tmp_path / "list.csv").write_text("path,caption\nclips/a.png,77\nclips/c.mkv,more numbers\n")
    found = prepared(tmp_path / "list.csv", model)
    assert [example.latents.parent.parent for example in found.examples] == [tmp_path / NAME] * 2
    other = prepared(data, model, cache=tmp_path / "other" / "cache")
    assert not (data / NAME).exists() and (tmp_path / "other" / "cache" / "latents").is_dir()
    by_caption = {example.caption: example for example in other.examples}
    for example in found.examples:
        assert torch.equal(example.posterior().mean, by_caption[example.caption].posterior().mean)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_work(data: Path, model: ModelDir, tmp_path: Path, calls: Calls, ranks: int) -> None:
    alone = prepared(data, model, cache=tmp_path / "alone")
    calls.clear()
    meeting, results = threading.Barrier(ranks, timeout=120), [None] * ranks

    def run(rank: int) -> None:
        results[rank] = prepared(
            data,
            model,
            cache=tmp_path / "shared",
            share=(rank, ranks),
            barrier=meeting.wait,  # pyright: ignore
        )

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == results[0] for result in results) and results[0] is not None
    assert calls.count("as_video") == 4 and calls.count("_compact") == 3  # each piece once, by whichever rank
    assert results[0].key == alone.key and results[0].skipped == alone.skipped
    for one, other in zip(results[0].examples, alone.examples, strict=True):
        assert (one.name, one.caption, one.shape) == (other.name, other.caption, other.shape)
        assert torch.equal(one.posterior().mean, other.posterior().mean)


def test_an_interrupted_start_goes_on(data: Path, model: ModelDir, calls: Calls) -> None:
    heard = []

    def cancel(what: str, done: int, total: int) -> None:
        heard.append((what, done, total))
        if (what, done) == ("encoding clips", 2):
            raise Cancelled

    with pytest.raises(Cancelled):
        prepared(data, model, report=cancel)
    assert calls.count("as_video") == 2 and heard[0] == ("reading clips", 0, 4)
    assert not [path for path in (data / NAME).rglob("*") if path.name.startswith(".")]  # nothing half-written
    calls.clear()
    assert len(prepared(data, model).examples) == 4
    assert calls.count("as_video") == 2 and calls.count("_compact") == 3


def test_damaged_files_of_the_cache_are_made_anew(data: Path, model: ModelDir, calls: Calls) -> None:
    first = prepared(data, model)
    values = [example.posterior().mean for example in first.examples]
    calls.clear()
    first.examples[0].latents.write_bytes(first.examples[0].latents.read_bytes()[:-100])
    first.examples[1].latents.write_bytes(b"")
    first.examples[3].latents.write_bytes(first.examples[2].latents.read_bytes())  # of another window
    first.examples[0].text.unlink()
    for record in (data / NAME / "sources").iterdir():
        record.write_text("{")
    again = prepared(data, model)
    assert again == first and calls.count("as_video") == 3 and calls.count("_compact") == 1
    for example, value in zip(again.examples, values, strict=True):
        assert torch.equal(example.posterior().mean, value)


def test_a_cache_that_was_emptied_in_the_meantime(data: Path, model: ModelDir) -> None:
    example = prepared(data, model).examples[0]
    example.latents.unlink()
    example.text.write_bytes(b"short")
    for read, path in ((example.posterior, example.latents), (example.features, example.text)):
        with pytest.raises(MochiError, match=f"{path.name}: gone, or damaged, since the clips were prepared"):
            read()


def test_a_full_disk(data: Path, model: ModelDir, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    write, room = Path.write_bytes, [6]

    def full(path: Path, content: bytes) -> int:
        room[0] -= 1
        if room[0] < 0:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(MochiError, match=rf"{NAME}/.*could not be written: the disk is full; make room. .* stays"):
            prepared(data, model)
    made = [path for path in (data / NAME).rglob("*") if path.is_file()]
    assert len(made) == 6 and not [path for path in made if path.suffix == ".part"]
    before = calls.count("as_video")
    assert len(prepared(data, model).examples) == 4
    assert before - 1 + calls.count("as_video") - before == 4  # the one that did not fit is encoded twice


def test_a_cache_that_cannot_be(data: Path, model: ModelDir, calls: Calls, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(MochiError, match=r"The cache .*file is no folder.* or another folder for the cache"):
        prepared(data, model, cache=tmp_path / "file" / "cache")
    assert not calls


def test_nothing_is_left(tmp_path: Path, model: ModelDir) -> None:
    write_numbered(with_caption(tmp_path / "one.mkv"), 1, 12)
    write_numbered(with_caption(tmp_path / "short.mkv"), 4, 12)
    with_caption(tmp_path / "text.mp4").write_text("text")
    with pytest.raises(MochiError) as caught:
        prepared(tmp_path, model)
    for part in ("one.mkv: a clip of one frame", "short.mkv: it has 4 frames", "text.mp4: cannot be read", "Expected"):
        assert part in str(caught.value)


def test_a_clip_that_turns_out_to_be_damaged(data: Path, model: ModelDir, calls: Calls) -> None:
    """Its packets are whole, and so only decoding tells. All ranks hear of it."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), np.uint8)
    path = write_clip(with_caption(data / "e.mp4"), noise, (Fraction(k, 12) for k in range(20)), Fraction(12))
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 2000, content.index(b"moov") - 100
    for place in np.random.default_rng(1).integers(start, end, 300):
        content[place] ^= 0xFF
    path.write_bytes(content)
    for share in ((0, 2), (0, 1)):  # one of two makes its part of what is missing, one alone all that is left
        found = prepared(data, model, share=share)
    assert "damaged" in dict(found.skipped)["e.mp4"] and len(found.examples) == 4


def test_fingerprint(model: ModelDir, tmp_path: Path) -> None:
    """Other values, names, shapes or dtypes are another network; another file of the same values is not."""
    weights = load_file(model.encoder.path)
    save_file(weights, tmp_path / "same.safetensors", {"note": "another file"})
    known = fingerprint(model.encoder, "encoder")
    assert known == fingerprint(Checkpoint.open(tmp_path / "same.safetensors"), "encoder")
    name = "layers.3.layers.0.weight" if "layers.3.layers.0.weight" in weights else sorted(weights)[5]
    changed = {
        "values": {**weights, name: weights[name] * 1.001},
        "dtype": {key: value.float() for key, value in weights.items()},
    }
    for kind, tensors in changed.items():
        save_file(tensors, tmp_path / f"{kind}.safetensors")
        assert fingerprint(Checkpoint.open(tmp_path / f"{kind}.safetensors"), "encoder") != known


@pytest.fixture
def many(data: Path, model: ModelDir) -> Iterator[TrainingSet]:
    found = prepared(data, model)
    yield replace(found, examples=found.examples * 20)


def test_contact_sheet(many: TrainingSet, tmp_path: Path) -> None:
    contact_sheet(many.examples[:4], tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    row, side, gap = len(pixels) // 4, 112, 6
    for place, example in enumerate(many.examples[:4]):
        for column, thumbnail in enumerate(example.thumbnails()):
            left = gap + column * (side + gap)
            picture = pixels[place * row + 10 : place * row + 60, left : left + 111]
            assert number_of(picture) == number_of(thumbnail.numpy())
        text = pixels[place * row : (place + 1) * row, gap + 5 * (side + gap) :]
        assert (text < 128).any()  # something is written there
    contact_sheet(many.examples, tmp_path / "long.png")
    with Image.open(tmp_path / "long.png") as sheet:
        assert sheet.height == 64 * row
    (tmp_path / "file").write_text("")
    with pytest.raises(MochiError, match="the contact sheet could not be written"):
        contact_sheet(many.examples, tmp_path / "file" / "sheet.png")
