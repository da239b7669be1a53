"""Models that live in a group: whole runs, prompts, frames, loading and unloading, many requests in a row."""

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.checkpoint import load_decoder, load_encoder
from mochi.config import TINY_WEIGHTS
from mochi.errors import Cancelled, MochiError
from mochi.lora import LoraPatch
from mochi.parallel.owner.client import RemoteDiT, RemoteVAE, finish
from mochi.parallel.owner.manager import GroupManager
from mochi.parallel.protocol import FramesDecoded, GetStatus, LoadVAE, SplitChosen, StepDone, TensorLoaded, Unload
from mochi.sampling import Given, SkipLayers, guide, guided, linear_quadratic, sample
from tests.exact import InFloat64, float32_bound, relative_error
from tests.parallel.dit_cases import NETWORK, lacking
from tests.parallel.dit_groups import weight_file
from tests.parallel.helpers import float32_dit, frames_of, tiny_dit, tiny_vae

checkpoint = weight_file()
EXACT_NETWORK = copy.deepcopy(NETWORK).double()
WIDTH = NETWORK.config.text_width


@pytest.fixture(scope="module", params=[2, 3])
def manager(request) -> Iterator[GroupManager]:
    manager = GroupManager(["cpu"] * request.param, timeout=120.0, threads=1)
    yield manager
    manager.close()


@pytest.fixture(scope="module", params=["replicated", "sharded"])
def dit(request, manager, checkpoint) -> RemoteDiT:
    return float32_dit(manager, checkpoint, request.param)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(len(lengths), 256, WIDTH, generator=torch.Generator().manual_seed(seed))
    return features, torch.arange(256) < torch.tensor(lengths)[:, None]


@torch.inference_mode()
def on_one_device(network, noise, sigmas, cfg, positive, negative, frames=None, skip=None) -> torch.Tensor:
    cond, uncond = network.encode_text(*positive), network.encode_text(*negative)
    fewer = lacking(network, () if skip is None else skip.layers)
    flows = (lambda z, s: network(z, s, cond), lambda z, s: network(z, s, uncond))
    predict = guided(*flows, cfg, lambda z, s: fewer(z, s, cond), skip)
    return sample(predict, noise, sigmas, given=frames)


def exactly(noise, sigmas, cfg, positive, negative, frames=None, skip=None) -> torch.Tensor:
    """The run without rounding."""
    texts = [(features.double(), mask) for features, mask in (positive, negative)]
    with InFloat64():
        return on_one_device(EXACT_NETWORK, noise.double(), sigmas, cfg, *texts, frames, skip)


@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    lengths=st.lists(st.sampled_from([0, 1, 17, 256]), min_size=2, max_size=2),
    batch=st.integers(1, 2),
    cfg=st.lists(st.sampled_from([1.0, 1.5, 4.0]), min_size=3, max_size=3),
    levels=st.none() | st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=3, max_size=3),
    skip=st.none() | st.builds(SkipLayers, st.sampled_from([(1,), (0, 2)]), rescale=st.sampled_from([0.0, 0.7])),
    start=st.sampled_from([1.0, 0.6]),
)
@settings(max_examples=8)
def test_a_run_is_the_run_of_one_device(dit, size, lengths, batch, cfg, levels, skip, start):
    """Against the run without rounding, since guidance multiplies what either rounds."""
    noise, clip = torch.randn(2, batch, 12, size[0], 2 * size[1], 2 * size[2], generator=seeded(1))
    sigmas = [start * sigma for sigma in linear_quadratic(3)]
    frames = None if levels is None else Given(clip[:1], tuple(levels[: size[0]]))
    positive, negative = prompts([lengths[0]] * batch, 2), prompts([lengths[1]] * batch, 3)
    texts = dit.text(*positive), dit.text(*negative)
    rows = [[(text, row) for row in range(batch)] for text in texts]
    told = []
    run = finish(dit.sample(noise, sigmas, cfg, *rows, given=frames, skip=skip), lambda event: told.append(event))
    exact = exactly(noise, sigmas, cfg, positive, negative, frames, skip)
    expected = on_one_device(NETWORK, noise, sigmas, cfg, positive, negative, frames, skip)
    assert relative_error(run, exact) <= float32_bound(NETWORK, expected, exact)
    for frame, level in enumerate(frames.multipliers if frames is not None else ()):
        if level == 0:
            assert torch.equal(run[:, :, frame], clip[:1, :, frame].expand(batch, -1, -1, -1))
    every = [event for event in told if isinstance(event.payload, StepDone)]
    steps = [event.payload for event in every if event.rank == 0]
    assert [step.done for step in steps] == [1, 2, 3]
    assert torch.equal(steps[-1].latents, run)
    assert {event.rank for event in every if event.payload.memory} == set(range(dit.manager.use().size))


def test_three_passes_of_a_step_go_over_three_ranks(dit):
    noise, rows = torch.zeros(1, 12, 1, 2, 2), [(dit.text(*prompts([5], 6)), 0)]
    told = []
    for skip, cfg in ((SkipLayers((1,)), 4.0), (SkipLayers((1,)), 1.0), (None, 4.0)):
        finish(dit.sample(noise, [1.0, 0.0], [cfg], rows, rows, skip=skip), lambda event: told.append(event.payload))
    chosen = {2: ["1 x Ulysses 2", "2 x Ulysses 1", "2 x Ulysses 1"], 3: ["3 x Ulysses 1"] + ["1 x Ulysses 3"] * 2}
    splits = [one.split for one in told if isinstance(one, SplitChosen)][:: dit.manager.use().size]
    assert splits == [f"guidance {way}" for way in chosen[dit.manager.use().size]]


def test_single_passes_with_levels_and_without_blocks_are_those_of_the_run(dit):
    """As a host asks for them, which makes its own steps."""
    noise, clip = torch.randn(2, 1, 12, 3, 4, 4, generator=seeded(1))
    sigmas, frames, skip = linear_quadratic(3), Given(clip, (0.0, 0.3, 1.0)), SkipLayers((1,), 1.5)
    sides = [(dit.text(*prompts([length], seed)), 0) for length, seed in ((256, 2), (17, 3))]

    def predict(z: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        cond, uncond = finish(dit.forward(torch.cat((z, z)), sigma.repeat(2, 1), sides)).chunk(2)
        return skip.guide(guide(cond, uncond, 4.0), cond, finish(dit.forward(z, sigma, sides[:1], skip=skip.layers)))

    run = finish(dit.sample(noise, sigmas, [4.0] * 3, *([side] for side in sides), given=frames, skip=skip))
    assert relative_error(run, sample(predict, noise, sigmas, given=frames)) <= 1e-6


@pytest.mark.parametrize("cfg", [[4.0, 4.0, 4.0], [6.0, 4.5, 1.0]])
def test_a_run_is_the_loop_over_its_own_passes(dit, cfg):
    """To the bit, at scales that multiply the rounding by which ranks differ from one device."""
    noise, sigmas = torch.randn(1, 12, 2, 4, 6, generator=torch.Generator().manual_seed(1)), linear_quadratic(3)
    sides = [(dit.text(*prompts([length], seed)), 0) for length, seed in ((256, 2), (17, 3))]

    def predict(z: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        if cfg[step] == 1:
            return finish(dit.forward(z, sigma, sides[:1]))
        both = finish(dit.forward(torch.cat((z, z)), sigma.repeat(2), sides))
        return guide(*both.chunk(2), cfg[step])

    assert torch.equal(
        finish(dit.sample(noise, sigmas, cfg, *([side] for side in sides))), sample(predict, noise, sigmas)
    )


def test_prompts_of_a_batch_can_come_from_several_texts(dit):
    z, sigma = torch.randn(3, 12, 2, 4, 6), torch.tensor([0.9, 0.5, 0.2])
    first, second = prompts([17, 0], 4), prompts([256], 5)
    texts = dit.text(*first), dit.text(*second)
    rows = [(texts[1], 0), (texts[0], 1), (texts[0], 0)]
    result = finish(dit.forward(z, sigma, rows))
    with torch.inference_mode():
        for i, (features, mask) in enumerate([(second, 0), (first, 1), (first, 0)]):
            row = slice(mask, mask + 1)
            alone = NETWORK(z[i : i + 1], sigma[i : i + 1], NETWORK.encode_text(features[0][row], features[1][row]))
            assert relative_error(result[i : i + 1], alone) <= 1e-6


def test_patches_change_the_run_without_loading_again(dit):
    noise, text = torch.randn(1, 12, 1, 4, 4), dit.text(*prompts([5], 6))

    def run() -> torch.Tensor:
        return finish(dit.forward(noise, torch.ones(1), [(text, 0)]))

    plain = run()
    loads = dit.loads
    up, down = torch.randn(NETWORK.config.hidden_x, 2), torch.randn(2, NETWORK.config.text_width)
    for scale in (0.5, 1.0):
        patch = LoraPatch(up, down, scale)
        # What a prompt becomes is patched too, so it must be read again.
        finish(dit.patch(("key", scale), {"t5_y_embedder.to_out.weight": [patch]}))
        assert relative_error(run(), plain) > 1e-3
    finish(dit.patch(None, {}))
    assert torch.equal(run(), plain)
    assert dit.loads == loads


@pytest.mark.parametrize("latent_frames", [1, 5, 7])
def test_what_is_told_of_frames_is_what_came(manager, latent_frames):
    """Of a number that the chunks do not divide, too."""
    came = []

    def hear(event) -> None:
        if isinstance(event.payload, FramesDecoded):
            came.append(event.payload.frames.shape[2])
            assert sum(came) == 6 * event.payload.done - 5

    finish(tiny_vae(manager).decode(torch.randn(1, 12, latent_frames, 4, 6)), hear)
    assert sum(came) == 6 * latent_frames - 5


@pytest.mark.parametrize("size", [(4, 6), (1, 1)], ids=["a strip for each rank", "fewer strips than ranks"])
def test_frames_are_those_of_one_device(manager, size):
    vae = tiny_vae(manager)
    z = torch.randn(1, 12, 5, *size)
    parts = frames_of(vae, z)
    decoder = load_decoder(TINY_WEIGHTS / "decoder.safetensors", torch.float32)
    encoder = load_encoder(TINY_WEIGHTS / "encoder.safetensors", torch.float32)
    with torch.inference_mode():
        expected = decoder(z)
        assert len(parts) > 1
        assert relative_error(torch.cat(parts, dim=2), expected) <= 1e-6
        video = expected[:, :, :1].clamp(-1, 1)
        assert relative_error(finish(vae.encode(video)), encoder(video).mean) <= 1e-6


def test_a_cancelled_run_leaves_everything_loaded(dit):
    text = dit.text(*prompts([5], 7))
    finish(dit.load())
    group, loads = dit.manager.use(), dit.loads
    run = dit.sample(torch.randn(1, 12, 2, 8, 8), linear_quadratic(500), [4.0] * 500, [(text, 0)], [(text, 0)])

    def stop(event) -> None:
        if isinstance(event.payload, StepDone) and event.payload.done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        finish(run, stop)
    finish(dit.forward(torch.zeros(1, 12, 1, 2, 2), torch.ones(1), [(text, 0)]))
    assert dit.manager.use() is group and dit.loads == loads


def test_loading_can_be_cancelled(manager):
    dit = tiny_dit(manager)

    def stop(event) -> None:
        if isinstance(event.payload, TensorLoaded) and event.payload.done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        finish(dit.load(), stop)
    assert not dit.loaded
    finish(dit.load())
    assert dit.loaded and dit.loads == 1


def test_a_wrong_file_is_refused_and_the_group_stays(manager):
    group = manager.use()
    with pytest.raises(MochiError, match="not a"):
        finish(float32_dit(manager, TINY_WEIGHTS / "decoder.safetensors").load())
    with pytest.raises(MochiError, match="no such file"):
        finish(RemoteVAE(manager, LoadVAE(TINY_WEIGHTS / "nothing", None, torch.float32)).load())
    assert manager.use() is group


def test_a_model_that_nobody_has_is_unloaded(manager):
    kept, dropped = tiny_dit(manager), tiny_dit(manager)
    finish(kept.load())
    finish(dropped.load())
    name = dropped.name
    assert name in manager.use().run(GetStatus())[0].models
    del dropped
    finish(kept.load())  # the next use of the group
    assert name not in manager.use().run(GetStatus())[0].models
    kept.unload()
    assert kept.name not in manager.use().run(GetStatus())[1].models
    finish(kept.load())
    assert kept.loads == 2


def test_many_runs_in_a_row_take_no_more_memory(checkpoint):
    """Of the owner and of each rank, over 50 prompts, each with a text, previews, a result and frames."""
    from mochi.device_memory import give_back, memory_used

    manager = GroupManager(["cpu"] * 2, timeout=120.0, threads=1)
    dit, vae = float32_dit(manager, checkpoint), tiny_vae(manager)
    here = torch.device("cpu")

    def prompt(seed: int) -> None:
        positive, negative = dit.text(*prompts([40], seed)), dit.text(*prompts([0], seed))
        noise = torch.randn(1, 12, 5, 16, 16)
        finish(dit.sample(noise, linear_quadratic(3), [4.0] * 3, [(positive, 0)], [(negative, 0)]))
        finish(vae.decode(torch.randn(1, 12, 2, 8, 8)))

    def memory() -> list[int]:
        give_back(here)
        return [memory_used(here), *manager.use().run(Unload())]

    try:
        for seed in range(10):
            prompt(seed)
        before = memory()
        for seed in range(10, 60):
            prompt(seed)
        after = memory()
    finally:
        manager.close()
    grown = [now / then - 1 for now, then in zip(after, before, strict=True)]
    assert max(grown) <= 0.02, grown
