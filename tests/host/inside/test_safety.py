"""Mochi Safety: what it passes on, what it blocks, and what its socket does in Mochi Save Video."""

import copy
import json

import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from executor import prepared
from toy_classifier import BLUE, RED, plain, write_toy

GRAPH = {"1": {"class_type": "MochiParallelSafety", "inputs": {}}}
HIDDEN = {"PROMPT": GRAPH}


@pytest.fixture(scope="module")
def toy(pack):
    """A classifier in ComfyUI's models/safety, by its name there."""
    write_toy(pack.base / "models" / "safety" / "toy")
    return "toy"


@pytest.fixture
def check(call):
    return lambda **inputs: call("MochiParallelSafety", hidden=HIDDEN, **inputs)


@pytest.fixture
def logged(pack):
    """What was blocked in this test."""
    file = pack.base / "user" / "blocked.jsonl"
    file.unlink(missing_ok=True)

    def entries():
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    return entries


@pytest.fixture(scope="module")
def blue_then_red():
    return torch.cat([plain(BLUE, 6, 48, 64), plain(RED, 7, 48, 64)]) / 255


def test_what_passes_is_handed_on_as_it_is(check, encode, toy, logged):
    conditioning, images = encode("a red circle"), plain(BLUE, 13) / 255
    inputs = {"text": "a dog", "conditioning": conditioning, "images": images}
    outputs = check(**inputs, words="cat", classifier=toy, every=4)
    assert all(given is passed for given, passed in zip(inputs.values(), outputs)) and len(outputs) == 4
    assert not logged()


def test_an_output_without_its_input_says_so_where_it_is_used(check):
    text, conditioning, images, _ = check(text="a dog", words="cat")
    assert text == "a dog"
    for output, name in ((conditioning, "conditioning"), (images, "images")):
        assert isinstance(output, ExecutionBlocker) and f"link its input `{name}`" in output.message


@pytest.mark.parametrize("socket", ["text", "conditioning"])
def test_a_blocked_prompt(check, encode, logged, socket):
    prompt = "a blue CÍRCLE"
    value = prompt if socket == "text" else encode(prompt)
    with pytest.raises(ValueError, match=r"^the prompt is blocked by the safety check words: 'circle' \(line 2\)$"):
        check(**{socket: value}, words="# none\ncircle")
    (entry,) = logged()
    assert entry["settings"] == {"prompt": prompt, "graph": GRAPH} and entry["check"] == "words"


def test_each_part_of_a_conditioning_is_checked(check, call, encode):
    both = call("ConditioningCombine", conditioning_1=encode("a red circle"), conditioning_2=encode("a blue square"))[0]
    assert check(conditioning=both, words="dog")[1] is both
    for word in ("circle", "square"):
        with pytest.raises(ValueError, match="is blocked"):
            check(conditioning=both, words=word)


def test_a_conditioning_of_another_node_is_refused(check, call, small):
    (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype="auto", device="default")
    (other,) = call("CLIPTextEncode", clip=clip, text="a dog")
    with pytest.raises(ValueError, match=r"take it from Mochi Text Encode itself, or link the text to `text`"):
        check(conditioning=other, words="cat")


def test_a_conditioning_that_was_changed_is_refused(check, call, encode):
    """It has the words of one text, and is what the other says."""
    mixed = {"conditioning_to": encode("a red circle"), "conditioning_from": encode("a dog")}
    for strength in (0.0, 0.99):
        (other,) = call("ConditioningAverage", conditioning_to_strength=strength, **mixed)
        with pytest.raises(ValueError, match="was changed since"):
            check(conditioning=other, words="dog")
    (same,) = call("ConditioningAverage", conditioning_to_strength=1.0, **mixed)
    assert check(conditioning=same, words="dog")[1] is same


def test_the_text_of_a_conditioning_is_copied_with_it(check, encode):
    conditioning = encode("a red circle")
    copied = copy.deepcopy(conditioning)
    assert check(conditioning=copied, words="dog")[1] is copied
    with pytest.raises(ValueError, match="is blocked"):
        check(conditioning=copied, words="circle")


def test_a_whole_run_stays_one_request(remote, mochi_sampler, encode, requests):
    """The text in the conditioning is nothing that the host would have to act on."""
    assert encode("a red circle")[0][1]["mochi_prompt"] == "a red circle"
    mochi_sampler(remote)
    assert "Sample" in requests and "Forward" not in requests


def test_flagged_frames(check, toy, blue_then_red, logged):
    with pytest.raises(ValueError, match=r"^frame 8 is blocked by the safety check toy: it looks like 'nsfw'"):
        check(images=blue_then_red, classifier=toy)
    (entry,) = logged()
    assert entry["frame"] == 8 and entry["score"] > 0.9 and entry["settings"] == {"graph": GRAPH}
    with pytest.raises(ValueError, match="frame 0 is blocked by the safety check toy: it looks like 'normal'"):
        check(images=blue_then_red, classifier=toy, labels="normal")


@pytest.fixture
def save(pack):
    """Saves. Returns the names of the files that are in its own folder then."""

    def run(images, format="png", folder="safety", **inputs):
        values = {"fps": 24.0, "format": format, "quality": 70, "filename_prefix": f"{folder}/a", **inputs}
        with torch.inference_mode():
            prepared(pack.nodes["MochiParallelSaveVideo"], HIDDEN).execute(images=images, **values)

    return run


def files_below(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("format", ["mp4", "webm", "gif", "png"])
def test_a_flagged_frame_never_reaches_the_disk(pack, check, save, toy, blue_then_red, logged, format, monkeypatch):
    encoder = pack.module("mochi.video.encoders").ENCODERS[format]
    added, add = [], encoder.add
    monkeypatch.setattr(encoder, "add", lambda self, frame: (added.append(frame), add(self, frame)))
    *_, safety = check(classifier=toy, every=5)
    with pytest.raises(ValueError, match="frame 10 is blocked"):
        save(blue_then_red, format, f"flagged_{format}", safety=safety)
    assert files_below(pack.base / "output" / f"flagged_{format}") == []
    assert len(added) == 6 and all((frame == BLUE).all() for frame in added)
    assert [entry["frame"] for entry in logged()] == [10]


def test_frames_are_checked_as_they_are_decoded(pack, call, check, save, toy, small, monkeypatch):
    """The streaming save: of latents whose decoder gives red frames."""
    (vae,) = call("MochiParallelLoadVAE", file=small.vae, encoder_file="in the file itself", dtype="auto")
    latents = {"samples": torch.zeros(1, 12, 3, 6, 8)}
    monkeypatch.setattr(vae, "decode_into", lambda samples, take: [take(plain(RED, 6, 48, 64)) for _ in range(2)])
    *_, safety = check(classifier=toy)
    with pytest.raises(ValueError, match="frame 0 is blocked"):
        save(latents, "mp4", "streamed", vae=vae, safety=safety)
    assert files_below(pack.base / "output" / "streamed") == []


def test_what_passes_is_byte_equal(pack, call, check, save, toy, small):
    (vae,) = call("MochiParallelLoadVAE", file=small.vae, encoder_file="in the file itself", dtype="auto")
    latents = {"samples": torch.randn(1, 12, 5, 6, 8, generator=torch.Generator().manual_seed(4))}
    *_, safety = check(classifier=toy, threshold=1.0, every=4)
    saved = {}
    for folder, inputs in (("off", {}), ("on", {"safety": safety})):
        for format in ("mp4", "png"):
            save(latents, format, folder, vae=vae, **inputs)
        saved[folder] = [path.read_bytes() for path in sorted((pack.base / "output" / folder).rglob("*.*"))]
    assert len(saved["on"]) == 26 and saved["on"] == saved["off"]


BAD = {
    "words, line 2: /(/ is no regular expression": {"words": "a\n/(/"},
    "are all empty, so that nothing would be checked": {"words": " \n"},
    "nor is it in the hub's cache": {"classifier": "some/model"},
    "absent: there is no such folder of a classifier": {"classifier": "absent"},
    "labels has cat, but it has normal, nsfw": {"classifier": "toy", "labels": "cat"},
    "threshold is 2.0": {"classifier": "toy", "threshold": 2.0},
    "every is 0": {"classifier": "toy", "every": 0},
    "absent.txt: the list of words cannot be read": {"checks": "absent.txt"},
    "checks has '../x.txt', but must have names of files in": {"checks": "../x.txt"},
    "checks has '/etc/passwd', but": {"checks": "/etc/passwd"},
    "safety is 'unknown', but must be": {"checks": "unknown"},
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_checked_is_refused_when_queued(pack, toy, message):
    answer = pack.nodes["MochiParallelSafety"].validate_inputs(**BAD[message])
    assert isinstance(answer, str) and message in answer


def test_what_is_linked_is_checked_later(pack):
    assert pack.nodes["MochiParallelSafety"].validate_inputs(words=None) is True


def test_files_in_the_folder_of_models(pack, check, toy):
    folder = pack.base / "models" / "safety"
    (folder / "more.txt").write_text("lion\n")
    (folder / "all.json").write_text(json.dumps({"words": "more.txt", "images": {"model": "toy"}, "log": "own.jsonl"}))
    node = pack.nodes["MochiParallelSafety"]
    assert node.validate_inputs(checks="more.txt, all.json") is True
    with pytest.raises(ValueError, match=r"more\.txt: 'lion'"):
        check(text="a lion", checks="all.json")
    assert files_below(folder).count("own.jsonl") == 1
    before = node.fingerprint_inputs(checks="all.json")
    assert before == node.fingerprint_inputs(checks="all.json")
    (folder / "more.txt").write_text("tiger\n")
    assert before != node.fingerprint_inputs(checks="all.json")


def test_lines_of_a_cluster_batch(pack, call, check, monkeypatch, logged):
    """A line that is blocked does not end the others; the workers get the checks."""
    batch, asked = pack.module("nodes.batch"), {}

    def made(jobs, load, *_):
        asked.update(prompts=[job.settings.prompt for job in jobs], checks=load.safety)
        return {}

    monkeypatch.setattr(batch, "make_on_cluster", made)
    *_, safety = check(words="cat")
    widgets = {"model_dir": "", "filename_prefix": "batch/a", "format": "mp4", "seed": -1, "cluster": "auto", "gpus": 1}
    widgets |= {"send_weights": False, **dict.fromkeys(("steps", "cfg", "width", "height", "frames"), 0)}
    with pytest.raises(ValueError, match=r"1 video was not made.*\nline 2: the prompt is blocked"):
        call("MochiParallelBatch", prompts="a dog\na cat\na bird", safety=safety, **widgets)
    assert asked == {"prompts": ["a dog", "a bird"], "checks": safety.settings}
    assert [entry["settings"]["prompt"] for entry in logged()] == ["a cat"]
