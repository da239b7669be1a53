"""The gradients of a LoRA over several ranks are those of one process, which has all clips and all weights."""

import copy
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mochi.checkpoint import load_dit
from mochi.errors import MochiError
from mochi.parallel.owner.group import Group
from mochi.parallel.settings import SHARDINGS
from mochi.train.ranks import Ranks
from tests.exact import relative_error
from tests.parallel.dit_cases import NETWORK
from tests.parallel.dit_groups import weight_file
from tests.parallel.helpers import ask
from tests.train.ranks_service import CALLS, Batch, gradients_of, loss_of, with_lora

CONFIG = json.dumps({"num_heads": NETWORK.config.num_heads, "caption_heads": NETWORK.config.caption_heads})
SERVICE = (str(Path(__file__).with_name("ranks_service.py")), "Trainer")

checkpoint = weight_file()


@pytest.fixture(scope="module", params=[2, 3, 4])
def group(request) -> Iterator[Group]:
    group = Group(["cpu"] * request.param, service=SERVICE, threads=1, timeout=120)
    yield group
    group.close()


def batch_of(clips: int, size: tuple[int, int, int], prompts: tuple[int, ...], per_frame: bool, seed: int) -> Batch:
    """size: latent frames, rows, columns. prompts: tokens of each, from the first clip on and over again."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([prompts[clip % len(prompts)] for clip in range(clips)])
    latents = torch.randn(2, clips, 12, *size, generator=generator)
    return Batch(
        z=latents[0],
        sigma=torch.rand((clips, size[0]) if per_frame else (clips,), generator=generator),
        features=torch.randn(clips, 256, NETWORK.config.text_width, generator=generator),
        mask=torch.arange(256) < lengths[:, None],
        target=latents[1],
    )


@functools.cache
def batches(groups: int) -> list[Batch]:
    """Two clips for each group, or one: prompts of one length and of several, tokens that most ranks have not as many
    of, fewer tokens than ranks, and levels for frames."""
    return [
        batch_of(2 * groups, (2, 6, 6), (5, 9), False, 0),
        batch_of(2 * groups, (3, 2, 10), (7,), True, 1),
        batch_of(groups, (1, 2, 4), (0, 3), False, 2),
    ]


@functools.cache
def expected(path: Path, groups: int) -> list[tuple[dict[str, Tensor], float]]:
    """Gradients and losses of the batches in one process, by the plain model."""
    model = load_dit(path, compute=torch.float32)
    layers = with_lora(model)
    results = []
    for batch in batches(groups):
        model.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        results.append((copy.deepcopy(gradients_of(layers)), loss.item()))
    return results


def assert_learns_as_one(group: Group, path: Path, ulysses: int, **arguments: object) -> None:
    groups = group.size // ulysses
    sent = [tuple(batch) for batch in batches(groups)]
    answers = ask(group, "learn", path=path, batches=sent, ulysses=ulysses, **arguments)
    right = expected(path, groups)
    for answer in answers:
        for (gradients, *losses), (right_gradients, right_loss) in zip(answer, right, strict=True):
            assert gradients.keys() == right_gradients.keys() and len(gradients) == 2 * (3 * 8 - 3)
            errors = {name: relative_error(gradients[name], right_gradients[name]) for name in gradients}
            assert max(errors.values()) <= 1e-5, errors
            assert losses == pytest.approx([right_loss] * len(losses), rel=1e-6)
    for other in answers[1:]:  # or the copies of the LoRA would go apart
        for (gradients, *_), (of_first, *_) in zip(other, answers[0], strict=True):
            assert all(torch.equal(gradients[name], of_first[name]) for name in gradients)


WAYS = pytest.mark.parametrize(
    ("sharding", "recompute"),
    [("replicated", "nothing"), ("replicated", "blocks"), ("sharded", "nothing"), ("sharded", "blocks")],
)


@WAYS
def test_clips_are_shared(group, checkpoint, sharding, recompute):
    assert_learns_as_one(group, checkpoint, 1, sharding=sharding, recompute=recompute)


@WAYS
def test_tokens_are_shared(group, checkpoint, sharding, recompute):
    assert_learns_as_one(group, checkpoint, group.size, sharding=sharding, recompute=recompute)


@pytest.mark.parametrize("recompute", CALLS)
def test_clips_tokens_and_weights_are_shared(group, checkpoint, recompute):
    if group.size != 4:
        pytest.skip("has no two groups of ranks")
    assert_learns_as_one(group, checkpoint, 2, sharding="sharded", recompute=recompute, own_rotary=False)


def test_weights_are_shared_within_machines(group, checkpoint):
    if group.size != 4:
        pytest.skip("has no two machines of two ranks")
    assert_learns_as_one(group, checkpoint, 2, sharding="offloaded", recompute="blocks", machines=(0, 0, 1, 1))


@pytest.fixture(scope="module")
def quantised(tmp_path_factory) -> Path:
    path, tensors = tmp_path_factory.mktemp("weights") / "dit_Q8_0.safetensors", {}
    for name, p in NETWORK.state_dict().items():
        if name.startswith("blocks.") and p.ndim == 2 and p.shape[1] % 32 == 0:
            blocks = gguf.quants.quantize(p.numpy(), gguf.GGMLQuantizationType.Q8_0)
            tensors[name.replace(".weight", ".Q8_0_qweight")] = torch.from_numpy(np.ascontiguousarray(blocks))
        else:
            tensors[name] = p
    save_file(tensors, path, {"config": CONFIG})
    return path


@pytest.mark.parametrize("recompute", ["nothing", "blocks"])
def test_quantised_weights_are_shared(group, quantised, recompute):
    assert sum(p.dtype == torch.int8 for p in load_dit(quantised).parameters()) > 15
    ulysses = 1 if recompute == "nothing" else group.size
    assert_learns_as_one(group, quantised, ulysses, sharding="sharded", recompute=recompute)


def test_what_ranks_tell_each_other(group):
    everyone = list(range(group.size))
    assert ask(group, "among") == [(True, False, everyone, "rank 0")] * group.size


def test_ranks_that_cannot_be(group, checkpoint):
    def said(**join: object) -> str:
        (words,) = set(ask(group, "refused", path=checkpoint, **join))
        return words

    assert f"ulysses is 5, but must divide the {group.size} processes" in said(ulysses=5)
    assert "ulysses is 0, but must be at least 1" in said(ulysses=0)
    if group.size == 4:
        assert "must divide the processes of each machine" in said(ulysses=4, machines=(0, 0, 1, 1))
    assert said(ulysses=1) == ""


# --- one rank


@pytest.fixture
def alone() -> Iterator[Ranks]:
    ranks = Ranks.join("cpu")
    yield ranks
    ranks.close()


@pytest.mark.parametrize("recompute", CALLS)
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_one_rank(alone, checkpoint, sharding, recompute):
    model = alone.load(checkpoint, None, torch.float32, sharding)
    layers = with_lora(model)
    assert sum(p.requires_grad for p in model.parameters()) == 2 * len(layers)
    runner = alone.runner(model, CALLS[recompute])
    for batch, (right, right_loss) in zip(batches(1), expected(checkpoint, 1), strict=True):
        model.zero_grad()
        loss = loss_of(model, batch, runner)
        loss.backward()
        gradients = gradients_of(layers)
        assert alone.average(list(gradients.values()), loss.item()) == [pytest.approx(right_loss, rel=1e-6)]
        assert max(relative_error(gradients[name], right[name]) for name in right) <= 1e-5
    assert alone.any(True) and not alone.any(False) and alone.gather("x") == ["x"] and alone.is_first


def test_heads_that_cannot_be_shared(alone, checkpoint):
    alone.ulysses = 5
    with pytest.raises(MochiError, match="ulysses is 5, but must divide the model's 12 heads"):
        alone.load(checkpoint, None, None)


def test_one_process_has_nobody_to_share_with(checkpoint):
    with pytest.raises(MochiError, match="ulysses is 2, but there is 1 process: have torchrun start as many"):
        Ranks.join("cpu", ulysses=2)


# --- torchrun

SCRIPT = """
import sys, torch
from mochi.train.ranks import Ranks

ranks = Ranks.join("cpu", ulysses=2)
assert (ranks.size, ranks.groups, ranks.group) == (2, 1, 0)
if sys.argv[1] == "fail" and ranks.rank == 1:
    raise RuntimeError("this rank fails")
gradient = torch.full((3,), float(ranks.rank))
more = ranks.average([gradient], 4.0 * ranks.rank)
if ranks.is_first:
    print("mean", gradient.tolist(), more)
ranks.close()
"""


def torchrun(folder: Path, what: str) -> subprocess.CompletedProcess:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), what],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_under_torchrun(tmp_path):
    run = torchrun(tmp_path, "average")
    assert run.returncode == 0, run.stderr
    assert "mean [0.5, 0.5, 0.5] [2.0]" in run.stdout


def test_a_rank_that_fails_ends_the_others(tmp_path):
    """The other one waits for it; torchrun does not."""
    started = time.monotonic()
    run = torchrun(tmp_path, "fail")
    assert run.returncode != 0 and "this rank fails" in run.stderr and "mean" not in run.stdout
    assert time.monotonic() - started < 60
