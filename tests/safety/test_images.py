"""Image classifiers of transformers, one that is trained here, and what is wrong with a folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mochi.errors import MochiError
from mochi.safety.images import Classifier, speaks_of_unsafe
from tests.toy_classifier import BLUE, RED, plain


def test_red_is_found_and_blue_is_not(toy: Path) -> None:
    classifier = Classifier(str(toy), every=3)
    check = classifier.build()
    assert classifier.name == "toy" and check.every == 3 and check.check_prompt("red") is None
    assert check.check_frames(plain(BLUE, 20, 24, 40)) is None
    finding = check.check_frames(torch.cat([plain(BLUE, 17, 24, 40), plain(RED, 2, 24, 40)]))
    assert finding is not None and finding.frame == 17
    assert finding.reason == "it looks like 'nsfw'" and finding.score is not None and 0.9 < finding.score <= 1


def test_scores_are_those_of_transformers_own_pipeline(toy: Path) -> None:
    from PIL import Image
    from transformers import pipeline

    pictures = torch.randint(0, 256, (3, 32, 48, 3), dtype=torch.uint8, generator=torch.manual_seed(1))
    classify = pipeline("image-classification", str(toy), device="cpu")
    scores = Classifier(str(toy)).build()._scores(pictures)
    for picture, row in zip(pictures, scores, strict=True):
        told = {each["label"]: each["score"] for each in classify(Image.fromarray(picture.numpy()))}
        assert row.tolist() == pytest.approx([told["normal"], told["nsfw"]], abs=2e-3)


def test_threshold_and_labels(toy: Path) -> None:
    assert Classifier(str(toy), threshold=1.0).build().check_frames(plain(RED)) is None
    other = Classifier(str(toy), labels=("Normal",)).build()
    assert other.check_frames(plain(RED)) is None and other.check_frames(plain(BLUE)) is not None
    both = Classifier(str(toy), labels=("normal", "NSFW"), threshold=0.999).build()
    assert both.check_frames(plain(BLUE)) is not None  # their probabilities are 1 together


def test_a_probability_for_each_label(toy: Path, tmp_path: Path) -> None:
    check = Classifier(str(changed(toy, tmp_path, problem_type="multi_label_classification"))).build()
    logits = check._model(**check._prepare(images=[plain(RED)[0].numpy()], return_tensors="pt")).logits
    finding = check.check_frames(plain(RED))
    assert finding is not None and finding.score == pytest.approx(logits[0, 1].sigmoid().item(), abs=1e-4)


def test_a_score_that_is_no_number_blocks(toy: Path) -> None:
    check = Classifier(str(toy)).build()
    with torch.no_grad():
        check._model.classifier.bias.fill_(float("nan"))
    assert check.check_frames(plain(BLUE)) is not None


def changed(toy: Path, folder: Path, **values) -> Path:
    """A copy with another configuration."""
    shutil.copytree(toy, folder / "changed")
    config = folder / "changed" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))
    return folder / "changed"


def test_what_a_folder_lacks_is_said_before_anything_is_loaded(toy: Path, tmp_path: Path) -> None:
    copy = changed(toy, tmp_path, id2label={"0": "cat", "1": "dog"}, label2id={"cat": 0, "dog": 1})
    with pytest.raises(MochiError, match=r"none of its labels .* choose some as labels: cat, dog"):
        Classifier(str(copy))
    with pytest.raises(MochiError, match="labels has bird, but it has cat, dog"):
        Classifier(str(copy), ("dog", "bird"))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(MochiError, match=r"other weights, which are not read: .* must have model.safetensors"):
        Classifier(str(copy), ("dog",))
    (copy / "pytorch_model.bin").rename(copy / "model.safetensors")
    (copy / "config.json").write_text('{"architectures": ["T5EncoderModel"]}')
    with pytest.raises(MochiError, match="no image classifier of transformers, but T5EncoderModel"):
        Classifier(str(copy))
    (copy / "config.json").write_text("[]")
    with pytest.raises(MochiError, match=r"config.json cannot be read"):
        Classifier(str(copy))
    with pytest.raises(MochiError, match="no such folder of a classifier"):
        Classifier(str(tmp_path / "absent"))


def test_damaged_weights(toy: Path, tmp_path: Path) -> None:
    copy = changed(toy, tmp_path)
    (copy / "model.safetensors").write_bytes(b"none")
    with pytest.raises(MochiError, match="changed: the classifier cannot be loaded"):
        Classifier(str(copy)).build()


@pytest.mark.parametrize("values", [{"threshold": 0}, {"threshold": 1.5}, {"every": 0}, {"every": 2.5}])
def test_numbers(toy: Path, values: dict) -> None:
    with pytest.raises(MochiError, match=f"{next(iter(values))} is .*, but must be"):
        Classifier(str(toy), **values)


def test_the_hub_s_cache(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub lays it out; nothing is fetched."""
    from huggingface_hub import constants, file_download

    for module in (constants, file_download):
        if hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MochiError, match=r"nor is it in the hub's cache.*hf download some/toy"):
        Classifier("some/toy")
    place = tmp_path / "models--some--toy"
    shutil.copytree(toy, place / "snapshots" / "0123abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123abc")
    classifier = Classifier("some/toy")
    assert classifier.name == "some/toy" and classifier.build().check_frames(plain(RED)) is not None


def test_names_of_labels() -> None:
    unsafe = ["nsfw", "NSFW", "porn", "hentai", "Sexy", "unsafe", "not_safe", "explicit nudity", "sexual-content"]
    safe = ["normal", "sfw", "safe", "neutral", "drawings", "non-nude", "not nsfw", "no_gore", "LABEL_1"]
    assert [name for name in unsafe if not speaks_of_unsafe(name)] == []
    assert [name for name in safe if speaks_of_unsafe(name)] == []
