"""The video in the output folder, its metadata, and what the node shows."""

import json
from fractions import Fraction

import av
import comfy.cli_args
import comfy.model_management as mm
import comfy.utils
import numpy
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from executor import prepared
from PIL import Image

try:
    import certificates
except ImportError:  # without cryptography, of the extra `c2pa`
    certificates = None

PROMPT = {"1": {"class_type": "MochiParallelSaveVideo", "inputs": {}}}
WORKFLOW = {"nodes": [], "links": [], "note": "ü"}
HIDDEN = {"PROMPT": PROMPT, "EXTRA_PNGINFO": {"workflow": WORKFLOW}}


@pytest.fixture
def frames():
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(7, 3, 6, 8), (48, 64), mode="bilinear").movedim(1, -1)


@pytest.fixture
def save(pack):
    """Saves; returns what the node shows, and the paths of those files."""

    def run(images, **inputs):
        values = {"fps": 30.0, "format": "mp4", "quality": 70, "filename_prefix": "video/mochi", **inputs}
        node = prepared(pack.nodes["MochiParallelSaveVideo"], HIDDEN)
        with torch.inference_mode():
            shown = node.execute(images=images, **values).ui.as_dict()
        paths = [pack.base / "output" / file["subfolder"] / file["filename"] for file in shown["images"]]
        return shown, paths

    return run


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_video(save, frames, format):
    shown, (path,) = save(frames, format=format, fps=24.0)
    assert shown["animated"] and shown["images"][0]["type"] == "output"
    assert path.parent.name == "video" and path.name.startswith("mochi_0") and path.suffix == f".{format}"
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (64, 48, 24)
        tags = {name.lower(): value for name, value in file.metadata.items()}
        assert json.loads(tags["prompt"]) == PROMPT and json.loads(tags["workflow"]) == WORKFLOW
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(decoded) == 7
    assert abs(torch.from_numpy(decoded[3]) / 255 - frames[3]).mean() < 0.05


def test_names_count_up_and_nothing_is_overwritten(save, frames):
    first, second = (save(frames, filename_prefix="numbered/a")[1][0].name for _ in range(2))
    assert (first, second) == ("a_00001_.mp4", "a_00002_.mp4")


def test_gif_and_png(save, frames):
    shown, (path,) = save(frames, format="gif")
    # The editor plays what is "animated" as a video, which a browser cannot do with a gif.
    assert "animated" not in shown and Image.open(path).n_frames == 7
    shown, paths = save(frames, format="png")
    assert "animated" not in shown and len(paths) == 7
    with Image.open(paths[0]) as image:
        assert image.size == (64, 48) and json.loads(image.text["workflow"]) == WORKFLOW


def test_a_video_keeps_its_frame_rate(save, frames):
    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, frame_rate=Fraction(12)))
    _, (path,) = save(video)
    with av.open(str(path)) as file:
        assert file.streams.video[0].average_rate == 12


def test_metadata_can_be_turned_off(save, frames, monkeypatch):
    monkeypatch.setattr(comfy.cli_args.args, "disable_metadata", True)
    _, (path,) = save(frames)
    with av.open(str(path)) as file:
        assert not {"prompt", "workflow"} & set(file.metadata)


def test_transparency_is_left_out(save, frames):
    _, (path,) = save(torch.cat([frames, frames[..., :1]], dim=-1))
    assert path.exists()


def test_cancelled_run_leaves_no_file(pack, save, frames, monkeypatch):
    def cancel(value, total, preview, node_id=None):
        if value == 3:
            mm.interrupt_current_processing()

    with monkeypatch.context() as patch:
        patch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
        with pytest.raises(mm.InterruptProcessingException):
            save(frames, filename_prefix="cancelled/a")
    assert not list((pack.base / "output" / "cancelled").iterdir())
    assert save(frames, filename_prefix="cancelled/a")[1][0].exists()


@pytest.fixture
def latents():
    return {"samples": torch.randn(1, 12, 5, 6, 8, generator=torch.Generator().manual_seed(4))}


@pytest.fixture
def vae(call, small):
    return call("MochiParallelLoadVAE", file=small.vae, encoder_file="in the file itself", dtype="auto")[0]


def test_latents_are_saved_as_they_are_decoded(call, save, vae, latents):
    (frames,) = call("MochiParallelVAEDecode", vae=vae, samples=latents)
    (_, from_frames), (_, from_latents) = save(frames, format="png"), save(latents, format="png", vae=vae)
    assert len(from_latents) == 25
    for ours, theirs in zip(from_latents, from_frames, strict=True):
        assert numpy.array_equal(numpy.asarray(Image.open(ours)), numpy.asarray(Image.open(theirs)))


def test_a_saved_video_is_never_in_memory_as_a_whole(pack, save, vae, latents, monkeypatch):
    writer, lots = pack.module("mochi.video").VideoWriter, []
    write = writer.write
    monkeypatch.setattr(writer, "write", lambda self, frames: (lots.append(len(frames)), write(self, frames)))
    save(latents, vae=vae)
    assert lots == [3, 4, 4, 4, 4, 4, 2]  # fewer at a time than a latent frame makes


def test_latents_of_a_batch_are_one_video_after_the_other(save, vae, latents):
    both = {"samples": torch.cat([latents["samples"], latents["samples"].flip(-1)])}
    _, paths = save(both, format="png", vae=vae)
    _, first = save(latents, format="png", vae=vae)
    assert len(paths) == 50
    assert numpy.array_equal(numpy.asarray(Image.open(paths[7])), numpy.asarray(Image.open(first[7])))


def test_latents_need_a_vae(save, latents):
    with pytest.raises(ValueError, match="connect Load AsymmVAE"):
        save(latents)


def test_a_cancelled_decode_leaves_no_file(pack, save, vae, latents, monkeypatch):
    def cancel(value, total, preview, node_id=None):
        if 1 < value < total:
            mm.interrupt_current_processing()

    with monkeypatch.context() as patch:
        patch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
        with pytest.raises(mm.InterruptProcessingException):
            save(latents, filename_prefix="cut/a", vae=vae)
    assert not list((pack.base / "output" / "cut").iterdir())


@pytest.fixture
def identity(tmp_path, monkeypatch):
    """A certificate that signs what is saved."""
    pytest.importorskip("c2pa")
    file = str(certificates.identity(tmp_path))
    monkeypatch.setenv("MOCHI_SIGN", file)
    return file


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
def test_signed(pack, save, frames, identity, monkeypatch, format):
    """The workflow stays readable. The credentials name model files, and leave the graph to the metadata."""
    loaders = {"2": {"class_type": "A", "inputs": {"file": "sub/mochi.gguf", "text": "x"}}}
    monkeypatch.setitem(HIDDEN, "PROMPT", {**PROMPT, **loaders})
    _, (path, *_) = save(frames, format=format, filename_prefix="signed/a")
    found = pack.module("mochi.provenance").read_credentials(path)
    assert not found.problems and found.signed_by == "Jo Maker" and found.source_types == ("trainedAlgorithmicMedia",)
    said = {"model": ["mochi.gguf"], "width": 64, "height": 48, "fps": 30.0}
    assert found.settings.items() >= said.items() and "class_type" not in str(found.settings)
    metadata = pack.module("mochi.video.reading").look_at(path).metadata
    assert json.loads(metadata["workflow"]) == WORKFLOW and set(json.loads(metadata["prompt"])) == {"1", "2"}
    monkeypatch.setattr(comfy.cli_args.args, "disable_metadata", True)
    _, (path, *_) = save(frames, format=format, filename_prefix="signed/b")
    assert "model" not in pack.module("mochi.provenance").read_credentials(path).settings


def test_what_cannot_be_signed_is_refused_before_anything_runs(pack, save, frames, identity, monkeypatch):
    node = pack.nodes["MochiParallelSaveVideo"]
    asked = {"filename_prefix": "refused/a", "fps": 30.0, "input_types": {"images": "IMAGE"}}
    assert node.validate_inputs(**asked, format="mp4") is True
    assert "webm cannot hold content credentials" in node.validate_inputs(**asked, format="webm")
    with pytest.raises(ValueError, match="webm cannot hold"):  # its format came over a link
        save(frames, format="webm", filename_prefix="refused/a")
    monkeypatch.setenv("MOCHI_SIGN", "nope.pem")
    assert "nope.pem: cannot be read" in node.validate_inputs(**asked, format="mp4")
    assert not list((pack.base / "output").glob("refused/*"))
    batch = {"prompts": "red", "model_dir": "", "filename_prefix": "refused/a", "format": "mp4", "cluster": "auto"}
    sizes = {"seed": 1, "steps": 2, "cfg": 0.0, "width": 0, "height": 0, "frames": 7}
    refuse = pack.nodes["MochiParallelBatch"].validate_inputs
    assert "nope.pem: cannot be read" in refuse(**batch, **sizes)
    monkeypatch.setenv("MOCHI_SIGN", identity)
    assert "line 1: webm cannot hold" in refuse(**{**batch, "format": "webm"}, **sizes)
    monkeypatch.delenv("MOCHI_SIGN")
    assert node.validate_inputs(**asked, format="webm") is True
