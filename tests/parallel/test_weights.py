"""A rank has its share of the weights, reads no more, and takes patches as one device would."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mochi.errors import CheckpointError, MochiError
from mochi.lora import LoraPatch, ReplacePatch
from mochi.lora.flat import flatten_patches, restore_patches
from mochi.parallel.settings import SHARDINGS
from mochi.parallel.worker.weights import RankWeights
from tests.exact import relative_error
from tests.parallel.dit_cases import NETWORK, patch_sets, patched_weight, predicted, steps
from tests.parallel.dit_groups import groups_of, weight_file
from tests.parallel.helpers import ask

checkpoint = weight_file()
denoisers = groups_of(3)
STATE = NETWORK.state_dict()


def whole(parts: list[dict[str, Tensor]], name: str) -> Tensor:
    """A parameter from what the ranks have of it: all of it each, or their rows."""
    rows = [part[name] for part in parts]
    return rows[0] if len(rows[0]) == len(STATE[name]) else torch.cat(rows)


@given(sharding=st.sampled_from(SHARDINGS), rounded=st.booleans(), first=patch_sets(), then=patch_sets())
@settings(max_examples=4)
def test_patches_come_and_go(denoisers, checkpoint, sharding, rounded, first, then):
    dtype = torch.bfloat16 if rounded else torch.float32
    ask(denoisers, "load", path=checkpoint, sharding=sharding, dtype=dtype, compute_dtype=torch.float32)
    before: set[str] = set()
    for patches in (first, then, {}):
        assert ask(denoisers, "patch", patches=patches) == [len(before | patches.keys())] * denoisers.size
        parts = ask(denoisers, "state")
        for name, stored in STATE.items():
            kept = torch.float32 if name == "pos_frequencies" else dtype
            expected = patched_weight(stored.to(kept).float(), patches.get(name, [])).to(kept).float()
            ours = whole(parts, name)
            # A matrix product of some rows can differ in the last bit, which then is a bit of bfloat16.
            assert relative_error(ours, expected) <= (1e-2 if rounded and name in patches else 1e-6)
            assert name in patches or torch.equal(ours, expected)
        before = set(patches)


@pytest.mark.parametrize("sharding", ["sharded", "offloaded"])
def test_a_sharded_rank_holds_its_share_before_and_after_a_pass(denoisers, checkpoint, sharding):
    ranks = denoisers.size
    of_blocks = sum(p.nbytes for name, p in STATE.items() if name.startswith("blocks."))
    of_the_rest = sum(p.nbytes for p in STATE.values()) - of_blocks
    # Rounded and widened, so that what is in memory is not the file's.
    ask(denoisers, "load", path=checkpoint, sharding=sharding, dtype=torch.bfloat16, compute_dtype=torch.float32)
    for _ in range(2):
        assert sum(ask(denoisers, "bytes")) == of_blocks + ranks * of_the_rest
        assert all(held <= of_blocks / ranks * 1.02 + of_the_rest for held in ask(denoisers, "bytes"))
        assert all(held <= (of_blocks / ranks + of_the_rest) * 1.02 for held in ask(denoisers, "tensors_in_memory"))
        mask = torch.ones(1, 256, dtype=torch.bool)
        passes = [(torch.zeros(1, 12, 1, 2, 2), torch.ones(1), torch.zeros(1, 256, 64), mask)]
        ask(denoisers, "predict", passes=passes, split=(1, ranks))


@torch.inference_mode()
@given(passes=steps())
@settings(max_examples=3)
def test_computes_rounded_weights_in_another_dtype(checkpoint, passes):
    weights = RankWeights(checkpoint, torch.bfloat16, torch.float32, "cpu", "replicated")
    rounded = {name: p if name == "pos_frequencies" else p.bfloat16().float() for name, p in STATE.items()}
    assert all(torch.equal(p, rounded[name]) for name, p in weights.model.named_parameters())
    assert all(flow.isfinite().all() for flow in predicted(weights.model, passes))


def test_tells_how_far_it_is_and_can_be_stopped(checkpoint):
    told = []
    RankWeights(checkpoint, None, None, "cpu", "replicated", lambda *progress: told.append(progress))
    assert told == [(done, len(STATE)) for done in range(1, len(STATE) + 1)]

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RankWeights(checkpoint, None, None, "cpu", "replicated", stop)


def test_does_not_share_memory_with_patches(checkpoint):
    weights = RankWeights(checkpoint, None, None, "cpu", "replicated")
    name = "blocks.0.attn.qkv_x.weight"
    weight = torch.ones_like(STATE[name])
    weights.patch({name: [ReplacePatch(weight)]})
    weight.zero_()
    assert torch.equal(weights.model.get_parameter(name), torch.ones_like(weight))


def lora(up: tuple[int, ...], down: tuple[int, ...]) -> LoraPatch:
    return LoraPatch(torch.ones(up), torch.ones(down))


@pytest.mark.parametrize(
    "patch",
    [
        lora((96, 2), (3, 96)),
        lora((95, 2), (2, 96)),
        lora((96, 2), (2, 95)),
        ReplacePatch(torch.ones(96)),
    ],
)
def test_names_the_parameter_that_a_patch_does_not_fit(checkpoint, patch):
    name = "blocks.1.attn.proj_x.weight"
    weights = RankWeights(checkpoint, None, None, "cpu", "replicated")
    with pytest.raises(MochiError, match=name):
        weights.patch({name: [patch]})
    weights.patch({})
    assert torch.equal(weights.model.get_parameter(name), STATE[name])


def test_refuses_what_it_does_not_know(checkpoint, tmp_path):
    weights = RankWeights(checkpoint, None, None, "cpu", "replicated")
    with pytest.raises(MochiError, match="nonsense"):
        weights.patch({"nonsense": []})
    with pytest.raises(MochiError, match="in pieces"):
        RankWeights(checkpoint, None, None, "cpu", "in pieces")
    with pytest.raises(CheckpointError, match="no such file"):
        RankWeights(tmp_path / "none.safetensors", None, None, "cpu", "replicated")


@given(patches=patch_sets())
def test_patches_cross_in_a_few_tensors(patches):
    _, long = flat = flatten_patches(patches)
    assert len(long) <= 1  # all are float32 here
    back = restore_patches(flat)
    assert back.keys() == patches.keys()
    for name, several in patches.items():
        for patch, copy in zip(several, back[name], strict=True):
            assert type(patch) is type(copy)
            values, back_again = vars(patch), vars(copy)
            assert values.keys() == back_again.keys()
            for key, value in values.items():
                assert torch.equal(value, back_again[key]) if isinstance(value, Tensor) else value == back_again[key]
