"""The memory forecast: laws, known sizes, what the networks really hold, and the table in docs/what-fits.md."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import memory as benchmark
from mochi.advice import FILES, warning_for
from mochi.config import PREVIEW, TINY, DecoderConfig, DiTConfig
from mochi.geometry import latent_shape
from mochi.memory import GB, NCCL, Denoising, Need, decoding, encoding, weight_bytes
from mochi.quant import Ggml
from scripts.memory_table import CARDS, fits, text

DIT = PREVIEW.dit
PUBLISHED = latent_shape(848, 480, 163)
BF16 = weight_bytes(DIT, None)

sides = st.integers(1, 80).map(lambda n: 16 * n)
videos = st.tuples(sides, sides, st.integers(0, 60).map(lambda n: 6 * n + 1))
weights = st.sampled_from([weight_bytes(DIT, quant) for quant in FILES.values()])
shardings = st.sampled_from(["replicated", "sharded", "offloaded"])
dtypes = st.sampled_from([torch.bfloat16, torch.float32])


def denoising(*run, **options) -> Need:
    return Denoising(*run, **options).need


@given(video=videos, axis=st.integers(0, 2), weights=weights, ranks=st.sampled_from([1, 2, 3, 4, 6, 8]), how=shardings)
def test_a_larger_video_never_needs_less(video, axis, weights, ranks, how):
    larger = tuple(size + (16 if i < 2 else 6) * (i == axis) for i, size in enumerate(video))
    small, large = latent_shape(*video), latent_shape(*larger)
    assert denoising(DIT, weights, small, ranks, how).total <= denoising(DIT, weights, large, ranks, how).total
    assert decoding(PREVIEW.decoder, small).total <= decoding(PREVIEW.decoder, large).total
    # In strips, a larger picture may be cut along its other side, with a little less at the borders.
    assert decoding(PREVIEW.decoder, small, ranks).total <= 1.01 * decoding(PREVIEW.decoder, large, ranks).total


def test_exchange_with_other_devices_takes_memory():
    """As much on each of several devices, however many they are."""
    for need in (
        lambda ranks: denoising(DIT, BF16, PUBLISHED, ranks),
        lambda ranks: decoding(PREVIEW.decoder, PUBLISHED, ranks),
    ):
        alone, *together = (need(ranks).parts["collectives"] for ranks in (1, 2, 4, 8))
        assert alone == 0 and set(together) == {NCCL}


# With fewer visual tokens than text, which every rank has, there is nothing to share.
@given(video=videos.filter(lambda video: min(video[:2]) >= 256), weights=weights, how=shardings, dtype=dtypes)
def test_twice_the_ranks_never_need_more_each(video, weights, how, dtype):
    needs = [denoising(DIT, weights, latent_shape(*video), ranks, how, dtype) for ranks in (2, 4, 8, 16)]
    if how != "offloaded":  # one device streams layers, several gather blocks
        needs.insert(0, denoising(DIT, weights, latent_shape(*video), 1, how, dtype))
    # The second rank alone brings something: the buffers of the exchange, which are as large for any number of ranks.
    own = [need.total - need.parts["collectives"] for need in needs]
    assert all(fewer >= more for fewer, more in pairwise(own))


@given(video=videos, ranks=st.sampled_from([1, 2, 4]), how=shardings, dtype=dtypes)
def test_quantised_weights_never_need_more(video, ranks, how, dtype):
    plain, *quantised = (
        denoising(DIT, weight_bytes(DIT, quant, dtype), latent_shape(*video), ranks, how, dtype).total
        for quant in FILES.values()
    )
    room = 700_000_000 if how == "offloaded" else 0  # nothing is saved on the device, but a layer is dequantised there
    assert max(quantised) <= plain + room


@given(video=videos, ranks=st.sampled_from([1, 2, 4]), how=st.sampled_from(["sharded", "offloaded"]))
def test_sharing_weights_needs_less_than_holding_them(video, ranks, how):
    shape = latent_shape(*video)
    assert denoising(DIT, BF16, shape, ranks, how).total <= denoising(DIT, BF16, shape, ranks).total


def test_two_passes_at_once_need_twice_the_activations():
    one, two = (denoising(DIT, BF16, PUBLISHED, passes=passes).parts["activations"] for passes in (1, 2))
    assert two == 2 * one


def test_sizes_of_the_published_files():
    published = {"bf16": 20.1, "fp8": 10.1, "Q8_0": 10.9, "Q4_0": 5.78, "Q3_K": 4.31}
    for quant, size in zip(FILES.values(), published.values(), strict=True):
        assert weight_bytes(DIT, quant) / GB == pytest.approx(size, rel=0.04)
    assert encoding(9_520_000_000).total < 10.2 * GB


def test_host_memory_is_named_where_weights_are_offloaded():
    assert Denoising(DIT, BF16, PUBLISHED, 2, "offloaded").host == BF16
    assert Denoising(DIT, BF16, PUBLISHED, 2, "sharded").host == 0


@pytest.mark.parametrize("quant", [None, Ggml("Q4_0")])
@pytest.mark.parametrize("config, latents", [(TINY.dit, (1, 12, 4, 16, 16)), (benchmark.MEDIUM, (1, 12, 6, 32, 32))])
def test_the_denoiser_holds_what_is_predicted(config: DiTConfig, latents: tuple[int, ...], quant):
    predicted, measured, *_ = benchmark.denoiser(config, latents, torch.bfloat16, quant=quant)
    # Dequantising is counted as for the format that takes most.
    assert 0.9 * measured <= predicted <= (1.15 if quant is None else 1.7) * measured


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_a_rank_holds_what_is_predicted(ranks: int, dtype: torch.dtype):
    predicted, measured, *_ = benchmark.denoiser(benchmark.MEDIUM, (1, 12, 8, 40, 40), dtype, ulysses=ranks)
    assert 0.9 * measured <= predicted <= 1.15 * measured


@pytest.mark.parametrize("ranks", [1, 2])
def test_levels_of_frames_take_no_more(ranks: int):
    """But for the modulation itself. Of 5 frames, the two ranks have half of the third each."""
    config, latents = replace(benchmark.MEDIUM, num_heads=6, hidden_x=384, hidden_y=192), (1, 12, 5, 24, 24)
    run = (config, latents, torch.bfloat16, ranks, None, True)
    one, each = (benchmark.denoiser(*run, levels=levels).measured for levels in (False, True))
    assert one < each <= 1.01 * one


@pytest.mark.parametrize("config", [TINY.decoder, DecoderConfig(base=32)])
def test_the_decoder_holds_what_is_predicted(config: DecoderConfig):
    predicted, measured, *_ = benchmark.decoder(config, (1, 12, 4, 8, 12), torch.bfloat16)
    assert 0.9 * measured <= predicted <= 1.15 * measured


@pytest.mark.parametrize("in_strips", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_decoding_by_chunks_holds_what_is_predicted(chunk: int, in_strips: bool):
    latents = (1, 12, 20, 8, 12)
    predicted, measured, *_ = benchmark.decoder(DecoderConfig(base=32), latents, torch.bfloat16, chunk, in_strips)
    assert 0.9 * measured <= predicted <= 1.15 * measured


def test_tensors_without_values_live_as_real_ones_do():
    """To the byte: the layers' ways on a CPU in float32, few values and many, pieces and strips; ranks and quants."""
    decoding_in_pieces = [
        benchmark.decoder(TINY.decoder, (1, 12, 5, 4, 6), torch.float32, 2, in_strips, real)
        for in_strips in (False, True)
        for real in (False, True)
    ]
    denoising_in_parts = [
        benchmark.denoiser(TINY.dit, (1, 12, 2, 8, 8), torch.float32, ulysses, quant, real)
        for ulysses, quant in ((1, None), (1, Ggml("Q4_0")), (2, None))
        for real in (False, True)
    ]
    counts = [figures.measured for figures in decoding_in_pieces + denoising_in_parts]
    assert counts[::2] == counts[1::2]


def test_t5_holds_what_is_predicted():
    predicted, measured, *_ = benchmark.text_encoder(256, torch.float32)
    assert 0.9 * measured <= predicted <= 1.15 * measured


@settings(max_examples=30)
@given(free=st.integers(1, 60 * GB), video=videos, weights=weights, ranks=st.sampled_from([1, 2, 4]), how=shardings)
def test_a_warning_says_what_is_needed_and_what_would_fit(free, video, weights, ranks, how):
    run = Denoising(DIT, weights, latent_shape(*video), ranks, how)
    warning = warning_for(run, free)
    if run.need.total <= free:
        assert warning is None
        return
    assert warning.startswith(f"A video of {video[0]} x {video[1]}, {video[2]} frames needs about ")
    assert "choose " in warning and warning.endswith(".") and "\n" not in warning
    if " frames or fewer" in warning:
        frames = int(warning.split("choose ")[1].split(" frames")[0])
        assert warning_for(replace(run, latents=latent_shape(*video[:2], frames)), free) is None
        assert warning_for(replace(run, latents=latent_shape(*video[:2], frames + 6)), free) is not None


def test_a_warning_offers_each_way_out():
    alone, on_two, on_eight = (
        Denoising(DIT, BF16, PUBLISHED),
        Denoising(DIT, BF16, PUBLISHED, 2),
        Denoising(DIT, BF16, PUBLISHED, 8, "offloaded"),
    )
    warning = warning_for(alone, 23 * GB)
    for choice in ("103 frames or fewer", "fp8", "offloaded weights (20 GB", "2 GPUs with sharded weights"):
        assert choice in warning
    assert "sharded weights" in warning_for(on_two, 18 * GB)
    assert warning_for(alone, 26 * GB) is None
    assert "smaller width and height" in warning_for(on_eight, GB)


def test_a_tiny_model_gets_no_advice_that_cannot_be():
    run = Denoising(TINY.dit, weight_bytes(TINY.dit, None), latent_shape(64, 64, 25))
    warning = warning_for(run, 10**6)
    assert "Q3_K" not in warning


def test_the_longest_video():
    run = Denoising(DIT, BF16, (1, 12, 10, 60, 106))
    free = run.need.total
    assert run.longest(28, free) == 10 and run.longest(28, free - 1) == 9
    assert run.longest(5, free) == 5 and run.longest(28, 1) == 0


@pytest.mark.parametrize("title", FILES)
@pytest.mark.parametrize("cards", [1, 2, 4])
def test_a_larger_card_fits_more(title, cards):
    weights = weight_bytes(DIT, FILES[title])
    best = [max((fit.frames for fit in fits(weights, card, cards)), default=0) for card in CARDS]
    assert best == sorted(best) and best[-1] == 163
    for card in CARDS:
        lengths = [fit.frames for fit in fits(weights, card, cards)]
        assert lengths == sorted(set(lengths))  # a slower way only for a longer video


def test_the_documents_have_the_table():
    page = Path(__file__).parents[1].joinpath("docs", "what-fits.md").read_text()
    assert text() in page, "run `python -m scripts.memory_table` and put what it prints into docs/what-fits.md"
