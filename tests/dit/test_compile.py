"""Compiled blocks: equal to plain ones, few compilations, and on without it where it fails."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from mochi.config import DiTConfig
from mochi.dit import AsymmDiT
from mochi.dit.attention import use_attention
from mochi.dit.backends import sdpa
from mochi.dit.compiled import compile_blocks
from mochi.packing import FLOAT8, Float8, PackedLinear, packed_linears
from tests.golden import relative_error
from tests.peers import randomised

CONFIG = DiTConfig(depth=5, num_heads=2, hidden_x=64, hidden_y=32, mlp_x=64, mlp_y=32, text_width=32, text_length=16)


@pytest.fixture(autouse=True)
def afresh():
    torch._dynamo.reset()


def network() -> AsymmDiT:
    return randomised(AsymmDiT(CONFIG), 0).requires_grad_(False)


def run(model: AsymmDiT, size: tuple[int, int, int], *lengths: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(lengths))
    batch, mask = len(lengths), torch.arange(16) < torch.tensor(lengths)[:, None]
    z, sigma = torch.randn(batch, 12, *size, generator=generator), torch.rand(batch, generator=generator)
    return model(z, sigma, model.encode_text(torch.randn(batch, 16, 32, generator=generator), mask))


RUNS = [((2, 4, 6), 9), ((2, 4, 6), 13), ((3, 8, 10), 9), ((5, 6, 4), 3)]


@torch.inference_mode()
def test_blocks_share_their_code_whatever_prompt_and_size():
    """One graph for all blocks but the last, and one for the last, which has no text output."""
    plain, compiled, counter = network(), network(), CompileCounter()
    compile_blocks(compiled.blocks, backend=counter)
    for size, *lengths in RUNS:
        assert relative_error(run(compiled, size, *lengths), run(plain, size, *lengths)) < 2e-6
    assert counter.frame_count == 2
    for lengths in ((9, 9), (7, 12)):  # two samples: equal, then unequal prompts
        assert relative_error(run(compiled, (2, 4, 6), *lengths), run(plain, (2, 4, 6), *lengths)) < 2e-6


def test_nothing_breaks_the_graph_of_a_block():
    model, seen = network(), []
    model.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(args))
    run(model, (2, 4, 6), 9)
    explained = torch._dynamo.explain(model.blocks[0].forward)(*seen[0])
    assert explained.graph_break_count == 0, explained.break_reasons


@torch.inference_mode()
def test_packed_weights_stay_outside_and_do_not_compile_again():
    """Though each has a scale of its own."""
    plain, compiled, counter = network(), network(), CompileCounter()
    for model in (plain, compiled):
        values = {name: p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2}
        packed_linears(model, {name: Float8(FLOAT8[0], scale=0.01 + 1e-4 * i) for i, name in enumerate(values)})
        for name, p in values.items():
            layer = model.get_submodule(name.removesuffix(".weight"))
            layer.weight.data = layer.packing.pack(p.data)
            if layer.bias is not None:
                layer.bias.data.zero_()
    compile_blocks(compiled.blocks, backend=counter)
    for size, *lengths in RUNS[:2]:
        assert relative_error(run(compiled, size, *lengths), run(plain, size, *lengths)) < 2e-6
    before = counter.frame_count
    for module in compiled.modules():
        if isinstance(module, PackedLinear):
            module.patch = lambda weight: weight * 1.5  # another LoRA
    for size, *lengths in RUNS:
        run(compiled, size, *lengths)
    assert counter.frame_count == before


@torch.inference_mode()
def test_another_attention_can_stay_outside():
    plain, compiled, counter = network(), network(), CompileCounter()
    use_attention(compiled.blocks, torch.compiler.disable(lambda q, k, v: sdpa(q, k, v)))
    compile_blocks(compiled.blocks, backend=counter)
    for size, *lengths in RUNS:
        assert relative_error(run(compiled, size, *lengths), run(plain, size, *lengths)) < 2e-6
    assert counter.frame_count <= 8


@torch.inference_mode()
def test_weights_can_be_changed_in_place():
    """As a LoRA does that is added to plain weights."""
    plain, compiled, counter = network(), network(), CompileCounter()
    compile_blocks(compiled.blocks, backend=counter)
    run(compiled, *RUNS[0])
    for model in (plain, compiled):
        for block in model.blocks:
            block.mlp_x.w1.weight.data.mul_(1.5)
            block.mlp_x.w2.weight = torch.nn.Parameter(block.mlp_x.w2.weight * 0.5, requires_grad=False)
    assert relative_error(run(compiled, *RUNS[0]), run(plain, *RUNS[0])) < 2e-6
    assert counter.frame_count == 2


@torch.inference_mode()
def test_goes_on_without_where_compiling_fails(caplog):
    def broken(graph, inputs):
        raise RuntimeError("no compiler")

    plain, compiled = network(), network()
    compile_blocks(compiled.blocks, backend=broken)
    assert torch.equal(run(compiled, *RUNS[0]), run(plain, *RUNS[0]))
    assert [
        record.message
        for record in caplog.records
        if "runs without it" in record.message and "no compiler" in record.message
    ]
    assert not any("forward" in vars(block) for block in compiled.blocks)


@torch.inference_mode()
def test_other_errors_are_not_hidden():
    model = network()
    compile_blocks(model.blocks, backend="eager")
    use_attention(model.blocks, torch.compiler.disable(lambda q, k, v: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        run(model, *RUNS[0])


@torch.inference_mode()
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_to_machine_code():
    plain, compiled = network(), network()
    compile_blocks(compiled.blocks)
    for size, *lengths in RUNS[:2]:
        assert relative_error(run(compiled, size, *lengths), run(plain, size, *lengths)) < 2e-6
    assert all("forward" in vars(block) for block in compiled.blocks)
