"""A noise level for each latent frame: the network equals the plain formula, and costs no more than one level."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mochi.config import DiTConfig
from mochi.dit import AsymmDiT, TextContext
from mochi.dit.levels import FrameVectors, per_frame
from mochi.errors import MochiError
from tests.exact import assert_close
from tests.peers.plain import plain_dit
from tests.random_weights import randomised

CONFIG = DiTConfig(depth=3, num_heads=2, hidden_x=32, hidden_y=16, mlp_x=64, mlp_y=32, text_width=32, text_length=16)
MODEL = randomised(AsymmDiT(CONFIG), 0)

sizes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
prompt_lengths = st.lists(st.integers(0, 16), min_size=1, max_size=3)


def inputs(size: tuple[int, int, int], lengths: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, T5 features and mask of a batch."""
    generator = torch.Generator().manual_seed(seed)
    frames, rows, columns = size
    z = torch.randn(len(lengths), 12, frames, 2 * rows, 2 * columns, generator=generator)
    features = torch.randn(len(lengths), 16, 32, generator=generator)
    return z, features, torch.arange(16) < torch.tensor(lengths)[:, None]


def some_levels(batch: int, frames: int, seed: int = 0) -> Tensor:
    """Levels of which some are 0 and some 1, as frames that stay and the first step have them."""
    generator = torch.Generator().manual_seed(seed)
    return (1.5 * torch.rand(batch, frames, generator=generator) - 0.25).clamp(0, 1)


def a_text() -> TextContext:
    _, features, mask = inputs((1, 1, 1), [9])
    return MODEL.encode_text(features, mask)


@torch.inference_mode()
@given(size=sizes, lengths=prompt_lengths, seed=st.integers(0, 2**31))
def test_equals_the_formula_with_a_vector_for_each_token(size, lengths, seed):
    model = randomised(AsymmDiT(CONFIG), seed)
    z, features, mask = inputs(size, lengths, seed)
    sigma = some_levels(len(lengths), size[0], seed)
    expected = plain_dit(model, z, sigma, features, mask)
    assert_close(model(z, sigma, model.encode_text(features, mask)), expected, within=2e-6)


@torch.inference_mode()
@given(size=sizes, lengths=prompt_lengths, seed=st.integers(0, 2**31))
def test_equal_levels_are_one_level_to_the_bit(size, lengths, seed):
    z, features, mask = inputs(size, lengths, seed)
    text, sigma = MODEL.encode_text(features, mask), some_levels(len(lengths), 1, seed)[:, 0]
    assert torch.equal(MODEL(z, sigma[:, None].expand(-1, size[0]), text), MODEL(z, sigma, text))


@torch.inference_mode()
def test_where_nobody_looks_equal_levels_are_one_level_to_rounding(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr("mochi.dit.model.alike", lambda sigma: False)
    z, features, mask = inputs((3, 2, 3), [9, 0])
    text, sigma = MODEL.encode_text(features, mask), torch.tensor([0.7, 0.2])
    assert_close(MODEL(z, sigma[:, None].expand(-1, 3), text), MODEL(z, sigma, text), within=1e-6)


@torch.inference_mode()
def test_every_level_counts():
    """In its own frame most: another frame sees it by attention, and through the text."""
    z, features, mask = inputs((3, 2, 2), [9])
    text, sigma = MODEL.encode_text(features, mask), torch.tensor([[0.2, 0.6, 0.9]])
    before = MODEL(z, sigma, text)
    for frame in range(3):
        other = sigma.clone()
        other[0, frame] = 0.4
        change = (MODEL(z, other, text) - before).abs().amax((0, 1, 3, 4))
        assert change.argmax() == frame and change.min() > 0


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(1, 2), (1, 4), (2, 3), (3,), (2,), (1, 3, 1), ()])
def test_levels_of_another_shape_are_refused(shape):
    z, _, _ = inputs((3, 1, 1), [9])
    with pytest.raises(MochiError, match=r"sigma has the shape .* must be \(1,\), or \(1, 3\).* 3 latent frames"):
        MODEL(z, torch.full(shape, 0.5), a_text())


def rows_through(model: AsymmDiT, z: Tensor, sigma: Tensor, text: TextContext) -> list[int]:
    """Vectors that pass through each layer of modulation in a forward pass."""
    seen: list[int] = []
    layers = [layer for name, layer in model.named_modules() if name.rpartition(".")[2] in ("mod_x", "mod_y", "mod")]
    hooks = [layer.register_forward_hook(lambda _, args, out: seen.append(out[..., 0].numel())) for layer in layers]
    model(z, sigma, text)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(layers) == 2 * CONFIG.depth + 1
    return seen


@torch.inference_mode()
def test_modulation_is_computed_once_a_frame():
    """Never once a token, of which each frame has 12; and once for the text."""
    z, features, mask = inputs((3, 3, 4), [9, 0])
    text = MODEL.encode_text(features, mask)
    assert rows_through(MODEL, z, torch.tensor([0.3, 0.7]), text) == [2] * 7
    assert rows_through(MODEL, z, some_levels(2, 3), text) == [6, 2] * CONFIG.depth + [6]


@given(batch=st.integers(1, 3), frames=st.integers(1, 6), each=st.integers(1, 7), data=st.data())
def test_any_part_of_the_tokens_gets_what_the_whole_gets(batch, frames, each, data):
    """A rank's share can begin and end anywhere in a frame, be within one, or be empty."""
    first = data.draw(st.integers(0, frames * each))
    count = data.draw(st.integers(0, frames * each - first))
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(batch, frames * each, 4, generator=generator) for _ in "xo")
    scale, shift = (torch.randn(batch, frames, 4, generator=generator) for _ in "sh")
    vectors = torch.zeros(batch, frames, 1)

    def formula(x: Tensor, other: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return x * scale.unsqueeze(1) + other, other - shift.unsqueeze(1)

    part = slice(first, first + count)
    here = FrameVectors(vectors, vectors[:, 0], each, first)
    found = per_frame(formula, here, [x[:, part], other[:, part]], [scale, shift])
    of_token = [t.repeat_interleave(each, 1) for t in (scale, shift)]
    expected = x * of_token[0] + other, other - of_token[1]
    assert all(torch.equal(ours, right[:, part]) for ours, right in zip(found, expected, strict=True))
    alone = per_frame(lambda *args: formula(*args)[0], here, [x[:, part], other[:, part]], [scale, shift])
    assert torch.equal(alone, expected[0][:, part])
