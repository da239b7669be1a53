"""Compiled blocks: equal to plain ones, few compilations, and on without it where it fails."""

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from benchmarks.fake_group import fake_group
from mochi.config import DiTConfig
from mochi.dit import PLAIN, AsymmDiT, BlockRunner, levels
from mochi.dit.attention import use_attention
from mochi.dit.backends import sdpa
from mochi.dit.compiled import CompiledBlocks
from mochi.parallel.split import Split
from mochi.parallel.spmd.dit import ParallelDiT, Pass
from mochi.parallel.spmd.mesh import Meshes
from mochi.quant import FLOAT8, Float8, QuantLinear, quant_linears
from tests.exact import relative_error
from tests.random_weights import randomised

CONFIG = DiTConfig(depth=5, num_heads=2, hidden_x=64, hidden_y=32, mlp_x=64, mlp_y=32, text_width=32, text_length=16)


@pytest.fixture(autouse=True)
def afresh():
    torch._dynamo.reset()


def network() -> AsymmDiT:
    return randomised(AsymmDiT(CONFIG), 0).requires_grad_(False)


def run(model: AsymmDiT, size: tuple[int, int, int], *lengths: int, runner: BlockRunner = PLAIN) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(lengths))
    batch, mask = len(lengths), torch.arange(256) < torch.tensor(lengths)[:, None]
    z, sigma = torch.randn(batch, 12, *size, generator=generator), torch.rand(batch, generator=generator)
    text = model.encode_text(torch.randn(batch, 256, 32, generator=generator), mask)
    return model(z, sigma, text, runner=runner)


RUNS = [((2, 4, 6), 9), ((2, 4, 6), 13), ((3, 8, 10), 9), ((5, 6, 4), 3)]


PIECES = 4 + 3
"""Graphs of the two kinds of blocks, of which the last has no text output: up to attention, in it before tokens meet
and after they have, and behind it. The two kinds are alike in the second."""

PROMPTS = [(0,), (37,), (1,), (2,), (256,)]
SEVERAL = [(0, 0), (37, 37), (37, 0), (0, 1, 2)]


@torch.inference_mode()
def test_blocks_share_their_code_whatever_prompt_and_size():
    """An empty prompt is the first, as it is the usual negative one. Batches of several have code of their own."""
    plain, compiled, counter = network(), network(), CompileCounter()
    runner = BlockRunner(CompiledBlocks(counter))
    for graphs, prompts in ((PIECES, PROMPTS), (2 * PIECES, SEVERAL)):
        for size in ((2, 4, 6), (1, 8, 10)):
            for lengths in prompts:
                assert relative_error(run(compiled, size, *lengths, runner=runner), run(plain, size, *lengths)) < 2e-6
                assert counter.frame_count == graphs, (size, lengths)


SIZES_OF_LEVELS = [(2, 4, 6), (3, 8, 10), (4, 4, 4), (5, 6, 4)]


def run_with_levels(model: AsymmDiT, size: tuple[int, int, int], runner: BlockRunner = PLAIN) -> torch.Tensor:
    """A pass in which each frame has a noise level of its own."""
    generator = torch.Generator().manual_seed(0)
    z, features = torch.randn(1, 12, *size, generator=generator), torch.randn(1, 256, 32, generator=generator)
    text = model.encode_text(features, torch.arange(256)[None] < 37)
    return model(z, torch.rand(1, size[0], generator=generator), text, runner=runner)


@torch.inference_mode()
def test_levels_of_frames_have_code_of_their_own_and_share_it_whatever_size():
    """Their first sizes can be alike by chance: two make all code that there is."""
    plain, compiled, counter = network(), network(), CompileCounter()
    runner, graphs = BlockRunner(CompiledBlocks(counter)), []
    for size in SIZES_OF_LEVELS:
        assert relative_error(run_with_levels(compiled, size, runner), run_with_levels(plain, size)) < 2e-6
        graphs.append(counter.frame_count)
    assert graphs[1] == graphs[-1] <= 2 * PIECES


@pytest.fixture
def rank_of_two():
    with fake_group(2, rank=0):
        yield


@torch.inference_mode()
def test_a_rank_s_blocks_share_their_code_whatever_prompt_and_size(rank_of_two):
    """Of what a rank sends, none arrives here; its code is counted."""
    model, counter = network(), CompileCounter()
    rank, graphs = ParallelDiT(model, Meshes("cpu"), CompiledBlocks(counter)), None
    for size in ((2, 4, 6), (1, 8, 10)):
        for lengths in PROMPTS:
            mask = torch.arange(256) < torch.tensor(lengths)[:, None]
            text = rank.encode_text(torch.zeros(1, 256, 32), mask)
            rank.predict([Pass(torch.zeros(1, 12, *size), torch.ones(1), text)], Split(1, 2))
            graphs = graphs or counter.frame_count
            assert counter.frame_count == graphs, (size, lengths)


@torch.inference_mode()
def test_a_rank_s_blocks_share_their_code_wherever_it_cuts_a_frame(rank_of_two):
    """Half of 2 frames is a frame, half of 3 or 5 is not."""
    model, counter, graphs = network(), CompileCounter(), []
    rank = ParallelDiT(model, Meshes("cpu"), CompiledBlocks(counter))
    text = rank.encode_text(torch.zeros(1, 256, 32), torch.arange(256)[None] < 37)
    for size in SIZES_OF_LEVELS:
        rank.predict([Pass(torch.zeros(1, 12, *size), torch.rand(1, size[0]), text)], Split(1, 2))
        graphs.append(counter.frame_count)
    assert graphs[1] == graphs[-1]


@torch.inference_mode()
def test_too_much_code_is_told_and_the_rest_runs_without(monkeypatch, caplog):
    """The last block would be the second variant."""
    monkeypatch.setattr("mochi.dit.compiled.MOST_CODE", 1)
    plain, compiled = network(), network()
    runner = BlockRunner(CompiledBlocks("eager"))
    for lengths in ((9,), (13,)):
        assert relative_error(run(compiled, (2, 4, 6), *lengths, runner=runner), run(plain, (2, 4, 6), *lengths)) < 2e-6
    assert [record.message for record in caplog.records if "as much code" in record.message] == [
        "torch.compile has made as much code for the model's blocks as it may (1 variants of one function): what none "
        "of it fits runs without it, slower. TORCH_LOGS=recompiles tells why."
    ]


@torch.inference_mode()
def test_quantised_weights_stay_outside_and_do_not_compile_again():
    """Though each has a scale of its own."""
    plain, compiled, counter = network(), network(), CompileCounter()
    for model in (plain, compiled):
        values = {name: p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2}
        quant_linears(model, {name: Float8(FLOAT8[0], scale=0.01 + 1e-4 * i) for i, name in enumerate(values)})
        for name, p in values.items():
            layer = model.get_submodule(name.removesuffix(".weight"))
            layer.weight.data = layer.quant.quantize(p.data)
            if layer.bias is not None:
                layer.bias.data.zero_()
    runner = BlockRunner(CompiledBlocks(counter))
    for size, *lengths in RUNS[:2]:
        assert relative_error(run(compiled, size, *lengths, runner=runner), run(plain, size, *lengths)) < 2e-6
    before = counter.frame_count
    for module in compiled.modules():
        if isinstance(module, QuantLinear):
            module.patch = lambda weight: weight * 1.5  # another LoRA
    for size, *lengths in RUNS:
        run(compiled, size, *lengths, runner=runner)
    assert counter.frame_count == before


@torch.inference_mode()
def test_another_attention_can_stay_outside():
    plain, compiled, counter = network(), network(), CompileCounter()
    use_attention(compiled.blocks, torch.compiler.disable(lambda q, k, v: sdpa(q, k, v)))
    runner = BlockRunner(CompiledBlocks(counter))
    for size, *lengths in RUNS:
        assert relative_error(run(compiled, size, *lengths, runner=runner), run(plain, size, *lengths)) < 2e-6
    assert counter.frame_count == PIECES


@torch.inference_mode()
def test_weights_can_be_changed_in_place():
    """As a LoRA does that is added to plain weights."""
    plain, compiled, counter = network(), network(), CompileCounter()
    runner = BlockRunner(CompiledBlocks(counter))
    run(compiled, *RUNS[0], runner=runner)
    for model in (plain, compiled):
        for block in model.blocks:
            block.mlp_x.w1.weight.data.mul_(1.5)
            block.mlp_x.w2.weight = torch.nn.Parameter(block.mlp_x.w2.weight * 0.5, requires_grad=False)
    assert relative_error(run(compiled, *RUNS[0], runner=runner), run(plain, *RUNS[0])) < 2e-6
    assert counter.frame_count == PIECES


@torch.inference_mode()
def test_goes_on_without_where_compiling_fails(caplog):
    def broken(graph, inputs):
        raise RuntimeError("no compiler")

    plain, compiled = network(), network()
    runner = BlockRunner(CompiledBlocks(broken))
    assert torch.equal(run(compiled, *RUNS[0], runner=runner), run(plain, *RUNS[0]))
    assert [
        record.message
        for record in caplog.records
        if "runs without it" in record.message and "no compiler" in record.message
    ]
    assert not runner.call.works
    assert torch.equal(run(compiled, *RUNS[1], runner=runner), run(plain, *RUNS[1]))


@torch.inference_mode()
def test_frames_stay_whole_where_compiling_fails(monkeypatch):
    """What modulates a token is not spread over all of them: kernels of norms would get more rows than a GPU starts."""

    def broken(graph, inputs):
        raise RuntimeError("no compiler")

    plain, compiled, rows = network(), network(), set()
    folded = levels._folded
    monkeypatch.setattr(levels, "_folded", lambda f, t, m: rows.add(m[0].shape[1]) or folded(f, t, m))
    runner = BlockRunner(CompiledBlocks(broken))
    for size in ((3, 4, 6), (5, 6, 4)):  # while it fails, and afterwards
        assert relative_error(run_with_levels(compiled, size, runner), run_with_levels(plain, size)) < 1e-6
    assert not runner.call.works and max(rows) <= 5


@torch.inference_mode()
def test_other_errors_are_not_hidden():
    model = network()
    runner = BlockRunner(CompiledBlocks("eager"))
    use_attention(model.blocks, torch.compiler.disable(lambda q, k, v: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        run(model, *RUNS[0], runner=runner)


@torch.inference_mode()
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_to_machine_code():
    plain, compiled = network(), network()
    runner = BlockRunner(CompiledBlocks())
    for size, *lengths in RUNS[:2]:
        assert relative_error(run(compiled, size, *lengths, runner=runner), run(plain, size, *lengths)) < 2e-6
    assert runner.call.works
