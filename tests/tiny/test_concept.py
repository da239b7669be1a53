"""What a LoRA is to learn: drawn as the judge sees it, shown by the tiny VAE, written as a trainer reads it."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mochi.checkpoint import load_decoder
from mochi.config import TINY, TINY_WEIGHTS
from mochi.lora.apply import read_loras
from mochi.model_dir import find_model
from mochi.train.data import DataSettings, prepare
from mochi.train.objective import sampled
from mochi.vae.latents import to_dit
from tiny import concept, evaluate_concept
from tiny.captions import HELD_OUT as KNOWN_HELD_OUT
from tiny.captions import held_out_prompts, training_scene
from tiny.clips import (
    BACKGROUNDS,
    COLOURS,
    NEW_COLOURS,
    NEW_SHAPES,
    SHAPES,
    draw,
    draw_with_mask,
    extents,
    random_scene,
)
from tiny.concept import HELD_OUT, PAIRS, concept_prompts, training_clips, write_clips
from tiny.evaluate import generate
from tiny.judge import judge
from tiny.sample import decode_frames, obeyed

NEW = [(s, c) for s in SHAPES + NEW_SHAPES for c in (*COLOURS, *NEW_COLOURS) if s in NEW_SHAPES or c in NEW_COLOURS]


def test_what_the_model_was_trained_on_is_as_it_was():
    """Scenes and prompts by their digest of before there was a concept; pixels by the formula for one ink."""
    rng = np.random.default_rng(11)
    scenes = [training_scene(rng) for _ in range(200)]
    known = ([s.key for s in scenes], sorted(KNOWN_HELD_OUT), [text for text, _ in held_out_prompts(200, 2024)])
    assert hashlib.sha256(repr(known).encode()).hexdigest()[:16] == "b2c29535a7841aa9"
    for scene in scenes[:20]:
        clip, mask = draw_with_mask(scene)
        ink, ground = np.float32(COLOURS[scene.colour]), np.float32(BACKGROUNDS[scene.background])
        assert np.array_equal(clip, mask[..., None] * (ink - ground) + ground)


@pytest.mark.parametrize("size", [64, 96])
def test_a_new_colour_is_two_above_and_below_the_centre(size: int):
    rows = (np.arange(size) + 0.5)[:, None] * 64 / size
    for colour, (above, below) in NEW_COLOURS.items():
        scene = random_scene(np.random.default_rng(0), "square", colour, "down")
        clip, mask = draw_with_mask(scene, size=size)
        for frame in (0, 24):
            offset = rows - scene.centre(frame)[1]
            for name, part in ((above, offset < -1), (below, offset > 1)):
                pixels = clip[frame][(mask[frame] == 1) & part]
                assert len(pixels) > 50 and np.abs(pixels - np.array(COLOURS[name])).max() < 1e-6


@pytest.mark.parametrize(("shape", "colour"), NEW)
def test_the_judge_sees_new_shapes_and_colours(shape: str, colour: str):
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng, shape, colour) for _ in range(8)]
    assert obeyed([draw(scene) for scene in scenes], scenes).all()


def test_the_judge_is_strict_about_them():
    clip = draw(random_scene(np.random.default_rng(2), "cross", "ocean", "left", "gray"))
    assert judge(clip[:, ::-1]).colour != "ocean"  # upside down
    turned = judge(clip.transpose(0, 2, 1, 3))  # one beside the other
    assert turned.colour != "ocean" and turned.direction == "up"
    mirrored = judge(clip[:, :, ::-1])
    assert (mirrored.shape, mirrored.colour, mirrored.direction) == ("cross", "ocean", "right")


def test_the_tiny_vae_shows_the_concept(tmp_path: Path):
    """What the trainer takes from the files, drawn from the posterior, comes out of the decoder as what it was."""
    clips = training_clips()
    write_clips(tmp_path, clips)
    settings = DataSettings(sizes=((64, 64),), frames=(25,))
    data = prepare(tmp_path, settings, find_model(), device="cpu", dtype=torch.float32)
    decoder = load_decoder(TINY_WEIGHTS / "decoder.safetensors", torch.float32)
    generator = torch.Generator().manual_seed(0)
    posteriors = [example.posterior() for example in data.examples]
    drawn = [sampled(p, torch.randn(p.mean.shape, generator=generator)) for p in posteriors]
    shown = decode_frames(decoder, to_dit(torch.stack(drawn), TINY.latents))
    assert [example.caption for example in data.examples] == [text for text, _ in clips]
    assert obeyed(shown, [scene for _, scene in clips]).all()


def test_prompts_have_pairs_that_no_training_clip_has():
    trained, asked = training_clips(), concept_prompts(64)
    pairs = Counter((scene.direction, scene.background) for _, scene in trained)
    assert len(trained) == 24 and set(pairs) == set(PAIRS) - HELD_OUT and set(pairs.values()) == {2}
    assert set(Counter((scene.direction, scene.background) for _, scene in asked).values()) == {4}
    assert {scene.key[:2] for _, scene in trained + asked} == {("cross", "ocean")}
    assert all("ocean" in text.lower() and "cross" in text for text, _ in trained + asked)
    assert trained == training_clips(seed=0) != training_clips(seed=1)


def test_training_clips_are_framed():
    for _, scene in training_clips():
        assert np.abs(np.array(scene.centre(12)) - 32).max() <= 3
        for frame in (0, 24):  # wholly inside
            left, right, up, down = extents(scene.shape, scene.radius)
            x, y = scene.centre(frame)
            assert left < x < 64 - right and up < y < 64 - down


def test_clips_are_written_as_they_are_drawn(tmp_path: Path):
    clips = training_clips(3)
    paths = write_clips(tmp_path, clips)
    assert sorted(tmp_path.iterdir()) == sorted([*paths, *(path.with_suffix(".txt") for path in paths)])
    for path, (text, scene) in zip(paths, clips, strict=True):
        assert path.with_suffix(".txt").read_text() == f"{text}\n"
        with av.open(str(path)) as file:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
        assert frames.shape == (25, 64, 64, 3)
        assert np.abs(frames - 255 * draw(scene)).mean() < 1.5
        assert all(judge(frames / 255).agrees(scene))


def lora_file(folder: Path) -> Path:
    """A LoRA that changes much, in the published layout."""
    generator, width = torch.Generator().manual_seed(0), TINY.dit.hidden_x
    factors = {}
    for i in range(TINY.dit.depth):
        factors[f"blocks.{i}.attn.proj_x.lora_A"] = torch.randn(4, width, generator=generator)
        factors[f"blocks.{i}.attn.proj_x.lora_B"] = torch.randn(width, 4, generator=generator)
    save_file(
        factors, path := folder / "lora.safetensors", {"kwargs": '{"out_proj_lora_rank": 4, "out_proj_lora_alpha": 4}'}
    )
    return path


def test_strength_0_is_the_model_without_the_lora(tmp_path: Path):
    path, prompts = str(lora_file(tmp_path)), ["an ocean cross moves left on a black background"]
    plain, none, full = (
        next(iter(generate(TINY_WEIGHTS, prompts, loras, steps=2)))
        for loras in ((), *(read_loras([(path, strength)], TINY.dit) for strength in (0.0, 1.0)))
    )
    assert np.array_equal(plain, none) and not np.array_equal(plain, full)


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The judge sees that a LoRA that has learnt nothing has not, and what it spoils."""
    known = tmp_path / "known.txt"
    monkeypatch.setattr("sys.argv", ["concept", str(tmp_path / "data"), "--clips", "2", "--known", str(known)])
    concept.main()
    assert len(known.read_text().splitlines()) == 64
    assert not {text for text, _ in held_out_prompts(200, 2024)} & set(known.read_text().splitlines())
    assert len(list((tmp_path / "data").glob("*.gif"))) == len(list((tmp_path / "data").glob("*.txt"))) == 2
    counts = [
        "--concept",
        "2",
        "--old",
        "2",
        "--json",
        str(tmp_path / "rates.json"),
        "--sheet",
        str(tmp_path / "a.png"),
    ]
    monkeypatch.setattr("sys.argv", ["evaluate", "--lora", str(lora_file(tmp_path)), *counts])
    evaluate_concept.main()
    assert json.loads((tmp_path / "rates.json").read_text()) == {"concept": 0, "old": 0, "without": 1}
    assert (tmp_path / "a.png").stat().st_size > 1000 and "wrong shape" in capsys.readouterr().out
