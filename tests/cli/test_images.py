"""`--image`: frames that are given pictures, on the command line and in the pipeline."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mochi import pipeline
from mochi.cli import main as cli
from mochi.cli.describe import describe
from mochi.config import PREVIEW, TINY
from mochi.errors import CheckpointError
from mochi.model_dir import find_model
from mochi.pipeline import GenerateSettings, Pipeline, load_pipeline
from mochi.sampling import linear_quadratic
from mochi.vae import to_dit
from tests.cli.conftest import SMALL

STEPS = 3
SIGMAS = linear_quadratic(STEPS, TINY.defaults.threshold_noise)


@pytest.fixture
def here(here: Path) -> Path:
    """A working directory with pictures of the size of the video."""
    for number, name in enumerate(("a", "b")):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{name}.png")
    return here


def settings(*images: str, **chosen: object) -> GenerateSettings:
    sizes = {"width": 32, "height": 32, "frames": 13, "steps": STEPS, "cfg": 3.0, "seed": 3}
    return GenerateSettings.of(TINY.defaults, **{"prompt": "red", "images": images, **sizes, **chosen})


def encoded(loaded: Pipeline, file: str) -> Tensor:
    """A picture as the VAE has it, (1, 12, 1, h, w)."""
    pixels = torch.from_numpy(np.asarray(Image.open(file), dtype=np.float32) / 255)
    return loaded.encoder._encoder(2 * pixels.permute(2, 0, 1)[None, :, None] - 1).mean


def guided_flow(loaded: Pipeline) -> Callable[[Tensor, Tensor], Tensor]:
    dit = loaded.denoiser.dit
    features, mask = loaded.text(["red", ""])
    texts = [dit.encode_text(features[i : i + 1], mask[i : i + 1]) for i in (0, 1)]

    def flow(z: Tensor, sigma: Tensor) -> Tensor:
        cond, uncond = (dit(z, sigma, text) for text in texts)
        return uncond + 3 * (cond - uncond)

    return flow


def noise() -> Tensor:
    return torch.randn((1, 12, 3, 4, 4), generator=torch.manual_seed(3), dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("variant", ["frames", "pusa"])
@torch.no_grad()
def test_each_frame_has_its_own_steps(model_dir: Path, here: Path, variant: str) -> None:
    """Against the sampler written out. Pusa has given latents without the statistics between VAE and DiT."""
    loaded = load_pipeline(model_dir, device="cpu", variant=variant)
    start, end = (encoded(loaded, f"{name}.png") for name in "ab")
    if variant == "frames":
        start, end = (to_dit(latents, PREVIEW.latents) for latents in (start, end))
    each = torch.tensor([0.25, 1, 0])
    z, flow = noise(), guided_flow(loaded)
    z[:, :, 0:1] = 0.75 * start + 0.25 * z[:, :, 0:1]
    z[:, :, 2:3] = end
    for sigma, following in pairwise(SIGMAS):
        z = z + (sigma - following) * each[:, None, None] * flow(z, sigma * each[None])
    if variant == "pusa":  # a frame that stays comes out as frames are decoded
        z[:, :, 2:3] = to_dit(end, PREVIEW.latents)
    torch.testing.assert_close(loaded.denoise(settings("a.png@0=0.75", "b.png@-1")), z, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_plain_model_keeps_them_as_inpainting_does(model_dir: Path, here: Path) -> None:
    """Against ComfyUI's inpainting written out: given frames are put in before each pass, and into its estimate."""
    loaded = load_pipeline(model_dir, device="cpu")
    assert loaded.variant == "preview"
    z, flow = noise(), guided_flow(loaded)
    start, drawn = to_dit(encoded(loaded, "a.png"), PREVIEW.latents), z[:, :, 1:2].clone()
    for sigma, following in pairwise(SIGMAS):
        z[:, :, 1:2] = (1 - sigma) * start + sigma * drawn
        estimate = z + sigma * flow(z, torch.tensor([sigma]))
        estimate[:, :, 1:2] = start
        z = z + (following - sigma) * (z - estimate) / sigma
    made = loaded.denoise(settings("a.png@4=0.5"))
    torch.testing.assert_close(made, z, rtol=1e-4, atol=1e-4)
    assert made[:, :, 1:2].equal(start)


@torch.no_grad()
def test_a_picture_of_every_size_is_cropped(model_dir: Path, here: Path) -> None:
    """What is beside the middle makes no difference."""
    loaded = load_pipeline(model_dir, device="cpu", variant="frames")
    wide = np.zeros((32, 80, 3), dtype=np.uint8)
    wide[:, 24:56] = np.asarray(Image.open("a.png"))
    Image.fromarray(wide).save("wide.png")
    assert loaded.denoise(settings("wide.png")).equal(loaded.denoise(settings("a.png")))


def frames(folder: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file), dtype=int) for file in sorted(Path(folder).glob("*.png"))])


def test_record_and_lines(run, here: Path) -> None:
    """A record makes the same video again; a line has its own images, as texts or objects, or those of the options."""
    images = ["--image=a.png", "--image=b.png@-1=0.5"]
    code, _, err = run("red", "--variant=frames", "--seed=1", *images, "--output=one.png")
    assert code == 0 and "variant frames: chosen" in err and "one noise level" not in err
    record = json.loads(Path("one.json").read_text())
    assert record["run"]["variant"] == "frames"
    assert record["images"] == [
        {"file": "a.png", "frame": 0, "strength": 1.0},
        {"file": "b.png", "frame": -1, "strength": 0.5},
    ]
    short = {"prompt": "red", "seed": 1}
    lines = [
        {**record, "output": "again.png"},
        {**short, "output": "none.png", "images": []},
        {**short, "output": "text.png", "images": ["a.png", "b.png@6=0.5"]},
        {**short, "output": "options.png"},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("--jsonl=list.jsonl", "--variant=frames", *images)[0] == 0
    for again in ("again", "text", "options"):
        assert np.array_equal(frames(again), frames("one")), again
    assert not np.array_equal(frames("none"), frames("one"))


def test_what_becomes_of_images_is_said(run, here: Path) -> None:
    code, _, err = run("red", "--image=a.png", "--output=clip.gif")
    assert code == 0 and "variant preview: nothing in" in err
    assert "one noise level for all frames" in err and "download --variant pusa" in err


def test_pusa_has_steps_and_guidance_of_its_own_in_the_size_of_the_model(here: Path) -> None:
    assert cli.main(["generate", "red", "--variant=pusa", "--frames=1", "--output=p.gif"]) == 0
    made = json.loads(Path("p.json").read_text())
    assert (made["steps"], made["cfg"]) == (30, 4.5)
    assert (made["width"], made["height"]) == (TINY.defaults.width, TINY.defaults.height)


@pytest.mark.skipif(torch.cuda.is_available(), reason="ranks on the CPU")
def test_over_three_ranks(model_dir: Path, here: Path) -> None:
    """Three passes in a step: the model's two heads alone could not be shared."""
    small = ["--model-dir", str(model_dir), *SMALL, "--frames=13", "--seed=1", "--variant=frames"]
    given = ["--image=a.png", "--image=b.png@-1=0.5", "--stg=2", "--stg-layers=1"]
    for how in (["--output=one.png"], ["--gpus=3", "--output=three.png"]):
        assert cli.main(["generate", "red", *small, *given, *how]) == 0
    assert np.abs(frames("one") - frames("three")).max() <= 1  # a float that lies on the border of two grey levels


BAD = {
    "image a.png: frame is 7, but the video has 7 frames.* nearest is 6": ["--image=a.png@7"],
    "image a.png: frame is -8, .* nearest is -7": ["--image=a.png@-8"],
    "image b.png: frame is 6, but image a.png is given to frame 1 already": ["--image=a.png@1", "--image=b.png@6"],
    "image a.png: strength is 1.5, .* nearest is 1": ["--image=a.png@0=1.5"],
    "'first' is no whole number of a frame": ["--image=a.png@first"],
    "image absent.png: there is no such file": ["--image=absent.png"],
    "image cut.png: cannot be read, or is damaged": ["--image=cut.png"],
    "image text.png: not a picture": ["--image=text.png"],
    "image clear.png is transparent in places": ["--image=clear.png"],
    "image pixel.png has 1 x 1 pixels, but must have 16 x 16": ["--image=pixel.png@3"],
    "image a.gif: a video would be written over it": ["--image=a.gif", "--output=clip.gif"],
    "nothing is left to make": ["--image=a.png", "--frames=1"],
    "nothing is left to make. Choose more frames$": ["--image=a.png@0=0.5", "--frames=1"],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_images_end_before_anything_is_loaded(
    run, here: Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "load_pipeline", lambda *_: pytest.fail("weights were read"))
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:2000])
    Path("text.png").write_text("not a picture")
    Image.new("RGBA", (32, 32)).save("clear.png")
    Image.new("RGB", (1, 1)).save("pixel.png")
    Image.open("a.png").save("clip.gif")
    Path("a.gif").symlink_to("clip.gif")
    code, out, err = run("red", *BAD[message])
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err.strip()), err


def test_bad_lines_do_not_end_the_others(run, here: Path) -> None:
    lines = [
        {"images": ["a.png@9"]},
        {"images": "a.png"},
        {"images": [{"file": "absent.png"}]},
        {"stg": 1, "stg_layers": [2]},
        {"images": ["a.png"], "output": "fine.gif"},
    ]
    Path("list.jsonl").write_text("\n".join(json.dumps({"prompt": "red", **line}) for line in lines))
    code, out, err = run("--jsonl=list.jsonl")
    assert (code, out.strip()) == (2, "fine.gif")
    for said in (
        "line 1: image a.png: frame is 9",
        "line 2: images is 'a.png', but must be a list",
        "line 3: image absent.png: there is no such file",
        "line 4: stg_layers has 2",
        "lines 1, 2, 3, 4 were not made",
    ):
        assert said in err, said


def test_a_model_without_an_encoder(run, here: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only images need it; a file of any name with both will do."""
    folder = here / "weights"
    folder.mkdir()
    for name in ("dit.safetensors", "t5"):
        (folder / name).symlink_to(model_dir / name)
    parts = {part: load_file(model_dir / f"{part}.safetensors") for part in ("decoder", "encoder")}
    save_file(parts["decoder"], folder / "vae.safetensors", {"config": json.dumps({"groups": 2})})
    assert run("red", f"--model-dir={folder}", "--output=a.gif")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "load_pipeline", lambda *_: pytest.fail("weights were read"))
        code, _, err = run("red", f"--model-dir={folder}", "--image=a.png")
        assert code == 2 and "there is no encoder.safetensors" in err and "--file encoder.safetensors" in err
    both = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    hints = {"config": json.dumps({"groups": 2, "attention_head_dim": 4})}
    save_file(both, folder / "vae.safetensors", hints)
    assert run("red", f"--model-dir={folder}", "--image=a.png", "--output=b.gif")[0] == 0
    del both["encoder.output_proj.weight"]
    save_file(both, folder / "vae.safetensors", hints)
    code, _, err = run("red", f"--model-dir={folder}", "--image=a.png")
    assert code == 2 and "vae.safetensors" in err and "encoder" in err


def test_variant_of_a_model(model_dir: Path, tmp_path: Path) -> None:
    """By the name of the file or its directory, and by metadata."""
    assert find_model(model_dir).variant[0] == "preview"
    for folder, file in (("weights", "pusa_v0_dit.safetensors"), ("Pusa-V0.5", "dit.safetensors")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).symlink_to(model_dir / "dit.safetensors")
        for name in ("decoder.safetensors", "t5"):
            (tmp_path / folder / name).symlink_to(model_dir / name)
        variant, reason = find_model(tmp_path / folder).variant
        assert variant == "pusa" == describe(tmp_path / folder / file).variant
        assert "has it in its name" in reason
        with pytest.raises(CheckpointError, match="pictures need an AsymmVAE encoder"):
            _ = find_model(tmp_path / folder).encoder
