"""Rows of a tensor equal those of the whole, however it is stored: what ranks read when they share a model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from mochi.checkpoint import Checkpoint
from mochi.checkpoint.lazy import (
    JoinedTensor,
    Piece,
    QuantTensor,
    ReshapedTensor,
    RoundedTensor,
    StoredTensor,
    joined,
    rounded,
)
from mochi.quant import FLOAT8, QUANT_DTYPE, QuantFormat
from tests.checkpoint import toys, writers
from tests.peers.diffusers import diffusers_dit

QKV, GATE = "blocks.0.attn.qkv_x.weight", "blocks.1.mlp_x.w1.weight"
PLAIN = "transformer_blocks.0.attn1.to_{}.weight"


def in_diffusers_layout(folder, cast):
    """A file of one format for q, k and v, or of several, as `cast` makes of their names."""
    state = diffusers_dit(toys.dit(toys.DIFFUSERS_DIT)).state_dict()
    return toys.save(folder / "theirs.safetensors", {name: value.to(cast(name)) for name, value in state.items()})


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Name -> (entry, the kind that it should be)."""
    weights = toys.dit().state_dict()

    def opened(writer, **options):
        return Checkpoint.open(writer(tmp_path_factory.mktemp("entries"), **options)).entries("dit")

    def ours(writer, **options):
        return opened(lambda folder: writer(folder, weights, **options))[GATE]

    float8, flat = FLOAT8[0], weights["x_embedder.proj.weight"].reshape(-1, 256)
    plain = opened(lambda folder: toys.save(folder / "dit.safetensors", weights))
    together = opened(in_diffusers_layout, cast=lambda name: torch.float16)
    same = opened(in_diffusers_layout, cast=lambda name: float8)
    mixed = opened(in_diffusers_layout, cast=lambda name: float8 if ".to_k" in name else torch.bfloat16)
    reshaped = opened(
        lambda folder: writers.gguf(
            folder, weights | {"x_embedder.proj.weight": flat}, "Q8_0", {"x_embedder.proj.weight": (64, 12, 2, 2)}
        )
    )
    return {
        "safetensors": (plain[GATE], StoredTensor),
        "vector": (plain["t5_yproj.bias"], StoredTensor),
        "four dimensions": (plain["x_embedder.proj.weight"], StoredTensor),
        "GGUF, plain": (ours(writers.gguf, kind="F16"), StoredTensor),
        "GGUF": (ours(writers.gguf, kind="Q5_1"), QuantTensor),
        "GGUF, reshaped": (reshaped["x_embedder.proj.weight"], ReshapedTensor),
        "qweight": (ours(writers.qweight, kind="Q4_0"), QuantTensor),
        "float8": (ours(writers.plain_float8, dtype=float8), QuantTensor),
        "scaled float8": (ours(writers.old_scaled), QuantTensor),
        "rounded": (rounded(plain[GATE], float8), RoundedTensor),
        "rounded, joined": (rounded(together[QKV], float8), RoundedTensor),
        "joined": (together[QKV], JoinedTensor),
        "joined, packed": (same[QKV], JoinedTensor),
        "joined, packed and plain": (mixed[QKV], JoinedTensor),
        "swapped": (together[GATE], JoinedTensor),
        "swapped, packed": (same[GATE], JoinedTensor),
        "pieces of pieces": (joined([Piece(together[QKV], 50, 200), Piece(together[QKV], 3, 20)]), JoinedTensor),
    }


NAMES = (
    "safetensors", "vector", "four dimensions", "GGUF, plain", "GGUF", "GGUF, reshaped", "qweight", "float8",
    "scaled float8", "rounded", "rounded, joined", "joined", "joined, packed", "joined, packed and plain", "swapped",
    "swapped, packed", "pieces of pieces",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_rows_equal_those_of_the_whole(name, data, entries):
    assert set(NAMES) == set(entries)
    entry, kind = entries[name]
    assert isinstance(entry, kind)
    count = entry.shape[0]
    a, b = sorted(data.draw(st.tuples(st.integers(0, count), st.integers(0, count))))
    whole = entry.read()
    assert whole.shape == entry.shape and whole.isfinite().all()
    assert entry.rows(a, b).equal(whole[a:b]) and entry.rows(a, b).dtype == whole.dtype
    if entry.quant is None:
        with pytest.raises(TypeError, match="not quantised"):
            entry.quant_rows(a, b)
        return
    assert isinstance(entry.quant, QuantFormat)
    quant, stored = entry.quant_rows(0, count)
    assert stored.dtype == QUANT_DTYPE and stored.shape == (count, entry.quant.row_bytes(entry.shape[1]))
    assert type(quant) is type(entry.quant) and entry.quant_rows(a, b)[0] == quant
    assert entry.quant_rows(a, b)[1].equal(stored[a:b])
    assert quant.dequantize(stored, torch.float32).equal(whole)


def test_joined_rows_lie_where_they_belong(entries):
    """Against the tensors themselves, put together by hand."""
    theirs = diffusers_dit(toys.dit(toys.DIFFUSERS_DIT)).state_dict()
    qkv = torch.cat([theirs[PLAIN.format(letter)] for letter in "qkv"]).half()
    assert entries["joined"][0].read().equal(qkv)
    assert entries["pieces of pieces"][0].read().equal(torch.cat((qkv[50:200], qkv[3:20])))
    value, gate = theirs["transformer_blocks.1.ff.net.0.proj.weight"].half().chunk(2)
    assert entries["swapped"][0].read().equal(torch.cat((gate, value)))


def test_only_the_rows_asked_for_are_read(tmp_path):
    """The rest may be damaged."""
    path = toys.save(tmp_path / "dit.safetensors", {"a.weight": torch.arange(12.0).reshape(6, 2)})
    read = []

    def rows(a, b):
        read.append((a, b))
        return load_file(path)["a.weight"][a:b]

    source = StoredTensor((6, 2), torch.float32, rows, lambda: rows(0, 6))
    rows_of_two = joined([Piece(source, 4, 6), Piece(source, 0, 4)])
    assert rows_of_two.rows(1, 3).flatten().tolist() == [10, 11, 0, 1]
    assert read == [(5, 6), (0, 1)]


def test_a_scale_is_found_when_it_is_first_needed():
    """All rows are read for it, once, and none when the tensor is only planned with."""
    read = []

    def rows(a, b):
        read.append((a, b))
        return torch.arange(12.0).reshape(6, 2)[a:b]

    entry = rounded(StoredTensor((6, 2), torch.float32, rows, lambda: rows(0, 6)), FLOAT8[0])
    assert entry.quant.row_bytes(2) == 2 and not read
    assert (entry.rows(2, 3) - torch.tensor([[4, 5]])).abs().max() < 0.3
    assert entry.rows(3, 4).shape == (1, 2)
    assert read == [(0, 6), (2, 3), (3, 4)]


@pytest.mark.parametrize("spread", [1e-4, 0.02, 3.0])
def test_rounding_uses_the_whole_range(spread):
    """As close as 8 bits allow, however small the weights are."""
    weight = spread * torch.randn(3000, 40, generator=torch.Generator().manual_seed(0))
    weight[2500, 7] = 9 * spread
    entry = rounded(
        StoredTensor(tuple(weight.shape), torch.float32, lambda a, b: weight[a:b], lambda: weight), FLOAT8[0]
    )
    assert entry.quant_rows(0, 1)[0].scale == pytest.approx(9 * spread / 448, rel=1e-6)
    assert ((entry.read() - weight).norm() / weight.norm()).item() < 0.03
    assert torch.equal(entry.rows(10, 20), entry.read()[10:20])
    nothing = rounded(StoredTensor((2, 2), torch.float32, None, lambda: torch.zeros(2, 2)), FLOAT8[0])
    assert nothing.quant_rows(0, 2)[0].scale is None and not nothing.read().any()
