"""The step cache: exact at threshold 0, and skipping what its formula says, sample by sample."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from mochi.config import DiTConfig
from mochi.dit import PLAIN, AsymmDiT, TextContext
from mochi.dit.cache import PEAK, POLYNOMIAL, CachePlan, StepCache, in_words
from mochi.dit.levels import FrameVectors
from mochi.sampling import Given, guided, sample
from tests.exact import relative_error
from tests.random_weights import randomised

CONFIG = DiTConfig(depth=3, num_heads=2, hidden_x=32, hidden_y=16, mlp_x=64, mlp_y=32, text_width=32, text_length=16)
MODEL = randomised(AsymmDiT(CONFIG), 0)
STEPS = 12
SIGMAS = (*(1 - 3e-4 * k * (1 + k / 4) for k in range(STEPS)), 0.0)
"""So close that random weights see changes like a trained network's."""
SIDES = ("positive", "negative")
ALL = list(range(STEPS))


def text(seed: int, lengths: Sequence[int] = (9,)) -> TextContext:
    features = torch.randn(len(lengths), 16, 32, generator=torch.Generator().manual_seed(seed))
    return MODEL.encode_text(features, torch.arange(16) < torch.tensor(lengths)[:, None])


def noise(batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(batch, 12, 2, 4, 6, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def run(
    cache: StepCache | None, start: Tensor, positive: TextContext, negative: TextContext, frames: Given | None = None
) -> Tensor:
    """A guided run, with the cache or without. frames: of which the last is free, if any are given."""

    def flow_of(side: str, prompt: TextContext):
        def flow(z: Tensor, sigma: Tensor) -> Tensor:
            keys = [(side, row) for row in range(len(z))]
            runner = PLAIN if cache is None else cache.around(keys, sigma.flatten()[-1].item())
            return MODEL(z, sigma, prompt, runner=runner)

        return flow

    sides = (flow_of(side, prompt) for side, prompt in zip(SIDES, (positive, negative), strict=True))
    return sample(guided(*sides, [3.0] * STEPS), start, SIGMAS, given=frames)


def computed(cache: StepCache, side: str, row: int = 0) -> list[int]:
    """The steps of a sample whose blocks ran."""
    return [step for (step, (key, _)), ran in cache.passes.items() if key == (side, row) and ran]


@pytest.mark.parametrize("frames", [None, Given(noise(seed=9), (0.3, 1.0))], ids=["free", "given"])
def test_threshold_0_changes_no_bit(frames):
    prompts = text(2, (9, 4)), text(3, (1, 1))
    cache = StepCache(CachePlan(0.0, SIGMAS))
    assert torch.equal(run(cache, noise(2), *prompts, frames), run(None, noise(2), *prompts, frames))
    assert all(cache.passes.values()) and len(cache.passes) == 2 * 2 * STEPS


def test_a_huge_threshold_leaves_the_first_and_the_last_step():
    cache = StepCache(CachePlan(1000.0, SIGMAS))
    run(cache, noise(), text(2), text(3))
    assert computed(cache, "positive") == computed(cache, "negative") == [0, STEPS - 1]


def test_only_the_middle_of_the_schedule_is_skipped():
    cache = StepCache(CachePlan(1000.0, SIGMAS, start=0.25, end=0.75))
    run(cache, noise(), text(2), text(3))
    assert computed(cache, "positive") == [step for step in ALL if not 3 <= step < 9]


@pytest.mark.parametrize(
    ("threshold", "levels"), [(0.04, None), (0.06, None), (0.15, None), (0.04, (0.3, 1.0))], ids=str
)
@torch.inference_mode()
def test_decisions_and_results_follow_the_formula(threshold, levels):
    """Against the loop written out. levels: of frames, which have noise of their own."""
    prompt, cache = text(2), StepCache(CachePlan(threshold, SIGMAS))
    rotary = MODEL.rotary(2, 4, 6)
    before = residual = None
    total, ran = 0.0, []
    z = noise()
    for step, sigma in enumerate(SIGMAS[:-1]):
        level = torch.tensor([sigma] if levels is None else [[sigma * m for m in levels]])
        flow = MODEL(z, level, prompt, runner=cache.around(["one"], sigma))

        x, y = MODEL.x_embedder(z), prompt.tokens
        vectors = MODEL.t_embedder(level.flatten(), z.dtype) + prompt.caption  # of each frame, or of all
        c = silu(vectors)
        scale = MODEL.blocks[0].mod_x(c).chunk(4, dim=-1)[0].repeat_interleave(x.shape[1] // len(c), 0)
        seen = rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale)
        if levels is not None:
            c = FrameVectors(c[None], silu(vectors.mean(0, keepdim=True)), x.shape[1] // len(c))
        if before is not None:
            change = ((seen - before).abs().mean() / before.abs().mean()).item()
            total += np.polyval(POLYNOMIAL, min(change, PEAK))
        if step in (0, STEPS - 1) or total >= threshold:
            out = x
            for block in MODEL.blocks:
                out, y = block(out, y, c, rotary, prompt.lengths)
            residual, total = out - x, 0.0
            ran.append(step)
        before = seen
        pixels = MODEL.final_layer(x + residual, c).unflatten(1, (2, 2, 3)).unflatten(-1, (2, 2, 12))
        expected = pixels.permute(0, 6, 1, 2, 4, 3, 5).reshape(z.shape)
        assert relative_error(flow, expected) < 1e-5
        m = 1 if levels is None else torch.tensor(levels)[:, None, None]
        z = z + (sigma - SIGMAS[step + 1]) * m * flow
    assert [step for (step, _), did in cache.passes.items() if did] == ran
    assert 2 < len(ran) < STEPS


@pytest.mark.parametrize("frames", [None, Given(noise(seed=9), (0.3, 1.0))], ids=["free", "given"])
def test_samples_of_a_batch_decide_for_themselves(frames):
    """Two videos and two prompts at once are what each of them is alone."""
    plan = CachePlan(0.06, SIGMAS)
    starts = torch.cat((noise(seed=1), 3 * noise(seed=5)))  # which change at another pace
    together = StepCache(plan)
    both = run(together, starts, text(2, (9, 4)), text(3, (1, 1)), frames)
    decisions = []
    for row, (length, other) in enumerate([(9, 1), (4, 1)]):
        alone = StepCache(plan)
        positive, negative = text(2, (9, 4)), text(3, (1, 1))
        positive, negative = (
            TextContext(t.caption[row : row + 1], t.tokens[row : row + 1, :n], (n,))
            for t, n in ((positive, length), (negative, other))
        )
        result = run(alone, starts[row : row + 1], positive, negative, frames)
        assert relative_error(both[row : row + 1], result) < 1e-5
        for side in SIDES:
            assert computed(together, side, row) == computed(alone, side)
        decisions.append([computed(alone, side) for side in SIDES])
    assert decisions[0] != decisions[1]


def test_a_second_pass_at_a_level_is_another_sample():
    cache, z, sigma = StepCache(CachePlan(1000.0, SIGMAS)), noise(), SIGMAS[0]
    with torch.inference_mode():
        for start in (z, 2 * z):
            MODEL(start, torch.tensor([sigma]), text(2), runner=cache.around(["one"], sigma))
    assert len(cache._samples) == 2 and all(cache.passes.values())


def test_a_run_does_not_see_the_run_before():
    """The first step is computed whatever is left in the cache."""
    cache, plan = StepCache(CachePlan(0.06, SIGMAS)), CachePlan(0.06, SIGMAS)
    run(cache, noise(seed=8), text(6), text(7))
    again = run(cache, noise(), text(2), text(3))
    assert torch.equal(again, run(StepCache(plan), noise(), text(2), text(3)))


def test_what_it_tells():
    ran = {(step, side): step in (0, 1, 2, 4, 7) or (step == 5 and side == 1) for step in range(8) for side in (0, 1)}
    assert in_words(ran) == "TeaCache: computed 6 of 8 steps (1-3, 5-6, 8), 11 of 16 passes"
