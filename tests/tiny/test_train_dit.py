"""Training of the tiny T5 and AsymmDiT on made-up latents: it learns, stops and goes on, and its weights load."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mochi.checkpoint import Checkpoint, load_dit
from mochi.config import TINY
from mochi.text import load_prompt_encoder
from tiny import pool as pools
from tiny.captions import HELD_OUT
from tiny.networks import PromptedDiT, tokenize
from tiny.sample import sample_latents
from tiny.tokenizer import make_tokenizer
from tiny.train_dit import Recipe, averaged, batch_of, export, loss_of, noise_levels
from tiny.training import Run


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches this small gain nothing from threads, and lose much where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    make_tokenizer(folder / "t5", captions=1000)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(str(folder / "t5"))


@pytest.fixture
def pool() -> pools.LatentPool:
    generator = torch.Generator().manual_seed(0)
    keys = torch.stack([torch.randint(n, (64,), generator=generator) for n in (4, 6, 4, 4)], dim=1)
    latents, stills = (torch.randn(64, 12, count, 8, 8, generator=generator).half() for count in (5, 4))
    return pools.LatentPool(latents, stills, keys.to(torch.uint8))


def averages(video: torch.Tensor) -> torch.Tensor:
    """Stands in for an encoder: block means of the frames, the colours repeated to 12 channels."""
    return torch.nn.functional.avg_pool3d(video[:, :, ::6], (1, 8, 8)).repeat(1, 4, 1, 1, 1)


def test_pool_is_made_once_and_only_for_its_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pools, "SHARD", 8)
    calls = []

    def encode(video: torch.Tensor) -> torch.Tensor:
        if video.shape[2] > 1:
            calls.append(len(video))
        return averages(video)

    small = pools.build_pool(tmp_path, 16, encode, "one")
    assert len(small) == 16 and sum(calls) == 16
    assert small.latents.shape == (16, 12, 5, 8, 8) and small.stills.shape == (16, 12, 4, 8, 8)
    larger = pools.build_pool(tmp_path, 24, encode, "one")
    assert sum(calls) == 24 and torch.equal(larger.latents[:16], small.latents)
    assert not {larger.scene(i).key for i in range(24)} & HELD_OUT
    pools.build_pool(tmp_path, 24, encode, "another")
    assert sum(calls) == 48


def test_batches_drop_captions_and_stay_in_range(pool: pools.LatentPool, tokenizer: PreTrainedTokenizerBase):
    batch = batch_of(pool, tokenizer, Recipe(batch=400), np.random.default_rng(0))
    dropped = ~batch.mask.any(1)
    assert 0.05 < dropped.float().mean() < 0.16
    assert not batch.ids[dropped].any()
    assert batch.z0.shape == batch.noise.shape == (400, 12, 5, 8, 8)
    assert batch.sigma.shape == (400, 5) and batch.sigma.max() <= 1
    given = batch.sigma < batch.sigma.amax(1, keepdim=True)
    assert 0.4 < given.any(1).float().mean() < 0.6
    assert given.sum(1).max() == 2 and (batch.sigma[given] == 0).any() and (batch.sigma[given] > 0).any()
    assert (batch.sigma.amax(1) > 0).all()


def test_a_given_frame_is_a_picture(pool: pools.LatentPool, tokenizer: PreTrainedTokenizerBase):
    """But the first one, which is one anyway."""
    batch = batch_of(pool, tokenizer, Recipe(batch=100, alike=0), np.random.default_rng(1))
    kept = batch.sigma == 0
    clips = {tuple(row) for row in pool.latents.float().movedim(1, 2).flatten(0, 1).flatten(1)[:, :3].tolist()}
    stills = {tuple(row) for row in pool.stills.float().movedim(1, 2).flatten(0, 1).flatten(1)[:, :3].tolist()}
    for sample, place in kept.nonzero().tolist():
        start = tuple(batch.z0[sample, :, place].flatten()[:3].tolist())
        assert start in (stills if place else clips)


def test_a_frame_without_noise_teaches_nothing(pool: pools.LatentPool, tokenizer: PreTrainedTokenizerBase):
    """Its noise cannot be told, so it is no part of the loss."""
    torch.manual_seed(0)
    model = PromptedDiT(TINY.dit, len(tokenizer))
    batch = batch_of(pool, tokenizer, Recipe(batch=20), np.random.default_rng(2))
    other = replace(batch, noise=torch.where(batch.sigma[:, None, :, None, None] == 0, 9.0, batch.noise))
    assert (batch.sigma == 0).any()
    with torch.no_grad():
        assert loss_of(model, other).item() == pytest.approx(loss_of(model, batch).item(), rel=1e-5)


def test_noise_levels_cover_what_the_prompt_decides():
    sigma = noise_levels(np.random.default_rng(0), 10_000)
    assert sigma.min() > 0 and sigma.max() <= 1
    assert (sigma > 0.9).float().mean() > 0.12  # place and motion
    assert ((sigma > 0.4) & (sigma < 0.9)).float().mean() > 0.5  # shape
    assert (sigma < 0.3).float().mean() > 0.05


def test_training_form_equals_the_model(tokenizer: PreTrainedTokenizerBase):
    """Constant shapes and a mask give what the model's own joint attention over trimmed prompts gives."""
    torch.manual_seed(0)
    model = PromptedDiT(TINY.dit, len(tokenizer))
    torch.nn.init.normal_(model.dit.final_layer.linear.weight)
    z, sigma = torch.randn(3, 12, 5, 8, 8), torch.tensor([1.0, 0.5, 0.1])
    ids, mask = tokenize(tokenizer, ["a red circle moves left on a black background", "", "blue star"], 20)
    with torch.no_grad():
        trained = model(z, sigma, ids, mask)
        plain = model.dit.__class__(TINY.dit)
        plain.load_state_dict(model.dit.state_dict())
        own = plain(z, sigma, plain.encode_text(model.features(ids, mask), mask))
    torch.testing.assert_close(trained, own, rtol=1e-4, atol=1e-4)


def test_learns_and_goes_on(pool: pools.LatentPool, tokenizer: PreTrainedTokenizerBase, folder: Path, tmp_path: Path):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    few = pools.LatentPool(pool.latents[:1], pool.stills[:1], pool.keys[:1])
    state = tmp_path / "dit.safetensors"
    run = Run(PromptedDiT(TINY.dit, len(tokenizer)), state, minutes=5, lr=1e-3, ema=0.9, warmup=3)
    losses = []
    for _ in range(20):
        loss = loss_of(run.model, batch_of(few, tokenizer, Recipe(batch=4, given=0), rng))
        run.update(loss)
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    run.save()

    again = Run(PromptedDiT(TINY.dit, len(tokenizer)), state, minutes=5, lr=1e-3, ema=0.9, warmup=3)
    assert again.step == 20
    batch = batch_of(few, tokenizer, Recipe(batch=4, given=0), rng)
    with torch.no_grad():
        assert loss_of(again.model, batch).item() == pytest.approx(loss_of(run.model, batch).item(), rel=1e-3)

    export(again, tokenizer, folder)
    dit = load_dit(folder / "dit.safetensors", dtype=torch.float32, device="cpu")
    encoder = load_prompt_encoder(folder / "t5")
    assert Checkpoint.open(folder / "dit.safetensors").metadata["variant"] == "frames"
    assert dit.config == TINY.dit and encoder.width == TINY.dit.text_width
    prompts = ["a blue star moves up on a white background", "a red circle"]
    model = averaged(again, tokenizer)
    with torch.inference_mode():
        stored = [dit.encode_text(*encoder(texts)) for texts in (prompts, ["", ""])]
        trained = [model.context(*tokenize(tokenizer, texts)) for texts in (prompts, ["", ""])]
    one, other = (
        sample_latents(net, *texts, seeds=[1, 2], steps=2) for net, texts in ((dit, stored), (model.dit, trained))
    )
    assert (one - other).norm() < 0.02 * other.norm()
