"""A forward pass over several ranks is the forward pass of one device, and sends what the formula says."""

from collections.abc import Collection

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.config import PREVIEW, DiTConfig
from mochi.errors import MochiError
from mochi.parallel.settings import SHARDINGS
from mochi.parallel.split import Split, splits
from tests.exact import relative_error
from tests.parallel.dit_cases import NETWORK, Input, patch_sets, patched_network, predicted, steps
from tests.parallel.dit_groups import groups_of, weight_file
from tests.parallel.helpers import ask

checkpoint = weight_file()
denoisers = groups_of(1, 2, 3, 4, 6)


@given(data=st.data())
@settings(max_examples=8)
def test_all_ranks_predict_what_one_device_does(denoisers, checkpoint, data):
    passes = data.draw(steps())
    patches = data.draw(patch_sets())
    split = data.draw(st.sampled_from(splits(denoisers.size, NETWORK.config.num_heads, passes=3)))
    # FSDP takes every process seconds to import.
    sharding = data.draw(st.sampled_from(SHARDINGS if denoisers.size <= 4 else ["replicated"]))
    ask(denoisers, "load", path=checkpoint, sharding=sharding)
    ask(denoisers, "patch", patches=patches)
    expected = predicted(patched_network(patches), passes)
    for rank, (results, sent) in enumerate(
        ask(denoisers, "predict", passes=list(map(tuple, passes)), split=tuple(split))
    ):
        assert all(result.dtype == torch.float32 for result in results)
        errors = [relative_error(a, b) for a, b in zip(results, expected, strict=True)]
        assert max(errors) <= 1e-6
        assert sent == bytes_of_step(NETWORK.config, passes, split, rank)


def bytes_of_step(config: DiTConfig, passes: list[Input], split: Split, rank: int) -> int:
    """Float32 bytes that a rank sends in a step: its forward passes, and the results that guidance groups exchange."""
    group, within = divmod(rank, split.ulysses_degree)
    total = 0
    for first in range(0, len(passes), split.cfg_degree):
        together = passes[first : first + split.cfg_degree]
        mine = together[min(group, len(together) - 1)]
        batch, tokens = len(mine.z), mine.z[0, 0].numel() // 4
        sizes = tokens, max(mine.prompts), split.ulysses_degree, within, 4
        total += batch * bytes_of_pass(config, *sizes, mine.skip)
        total += (
            mine.z.nbytes * (split.cfg_degree - 1) if len(together) > 1 else 0
        )  # to all groups, with or without one
    return total


def bytes_of_pass(
    config: DiTConfig, tokens: int, text: int, ranks: int, rank: int, itemsize: int, skip: Collection[int] = ()
) -> int:
    """Sent by a rank in a forward pass of one sample: q, k, v and output of each block, the text output of all blocks
    but the last, and the pixels. Nothing of blocks that are left out."""
    n = len(torch.arange(tokens).tensor_split(ranks)[rank])
    blocks = [i for i in range(config.depth) if i not in skip]
    write_text = [i for i in blocks if i < config.depth - 1]
    heads_of_own = 3 * n * (ranks - 1)
    own_heads = tokens - n
    visual = len(blocks) * (heads_of_own + own_heads) * config.hidden_x // ranks
    written = len(write_text) * (ranks - 1) * text * config.hidden_x // ranks
    pixels = (ranks - 1) * -(-tokens // ranks) * config.patch_size**2 * config.channels
    return (visual + written + pixels) * itemsize


@pytest.mark.parametrize("ranks", [2, 3, 4, 6, 8])
def test_a_video_of_the_published_size_sends_what_ulysses_must(ranks):
    config, tokens = PREVIEW.dit, 28 * 30 * 53
    sent = sum(bytes_of_pass(config, tokens, 256, ranks, rank, itemsize=2) for rank in range(ranks)) / ranks
    formula = config.depth * 4 * tokens * config.hidden_x * 2 * (ranks - 1) / ranks**2
    assert sent == pytest.approx(formula, rel=0.02)


def test_refuses_what_cannot_be(denoisers, checkpoint):
    ask(denoisers, "load", path=checkpoint, sharding="replicated")
    z, text = torch.zeros(1, 12, 1, 2, 2), (torch.zeros(1), torch.zeros(1, 256, 64), torch.zeros(1, 256).bool())
    with pytest.raises(MochiError, match="there are"):
        ask(denoisers, "predict", passes=[(z, *text)], split=(1, denoisers.size + 1))
    with pytest.raises(MochiError, match="different shapes"):
        passes = [(z, *text), (torch.zeros(1, 12, 2, 2, 2), *text)]
        ask(denoisers, "predict", passes=passes, split=(1, denoisers.size))
