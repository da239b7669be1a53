"""AsymmDiT equals the diffusers library's, on the same weights, whatever the sizes and the prompts."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.config import DiTConfig
from mochi.dit import AsymmDiT
from tests.exact import relative_error
from tests.peers.diffusers import diffusers_dit
from tests.random_weights import randomised

# The diffusers MLP is 8/3 of the width, without the rounding that the published sizes do not need.
CONFIG = DiTConfig(depth=2, num_heads=4, hidden_x=96, hidden_y=48, mlp_x=256, mlp_y=128, text_width=64, text_length=32)

sizes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
prompt_lengths = st.lists(st.integers(0, 32), min_size=1, max_size=3)


def prefix_masks(lengths: list[int]) -> list[list[bool]]:
    """Real tokens first, as every tokenizer leaves them (diffusers mixes up tokens behind a gap)."""
    return [[i < n for i in range(32)] for n in lengths]


def inputs(size: tuple[int, int, int], masks: list[list[bool]], seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    t, h, w = size
    batch = len(masks)
    z = torch.randn(batch, 12, t, 2 * h, 2 * w, generator=generator)
    sigma = torch.rand(batch, generator=generator)
    features = torch.randn(batch, 32, 64, generator=generator)
    return z, sigma, features, torch.tensor(masks)


def run_both(ours, theirs, z, sigma, features, mask):
    out = ours(z, sigma, ours.encode_text(features, mask))
    reference = theirs(z, features, (1000 * (1 - sigma)), mask, return_dict=False)[0]
    return out, reference


@torch.inference_mode()
@given(size=sizes, lengths=prompt_lengths, seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_equals_diffusers_in_float32(size, lengths, seed):
    """Any latent size, any batch of prompts of unequal lengths, empty ones among them."""
    ours = randomised(AsymmDiT(CONFIG), seed)
    out, reference = run_both(ours, diffusers_dit(ours), *inputs(size, prefix_masks(lengths), seed))
    assert relative_error(out, reference) <= 2e-6


@torch.inference_mode()
def test_bfloat16_is_no_further_from_float32_than_diffusers():
    """Summed over seeds, since the error of a single run is noise."""
    ours_error = theirs_error = 0.0
    for seed in range(6):
        ours = randomised(AsymmDiT(CONFIG), seed)
        theirs = diffusers_dit(ours)
        z, sigma, features, mask = inputs((3, 4, 5), prefix_masks([32, 5, 17]), seed)
        exact, _ = run_both(ours, theirs, z, sigma, features, mask)
        frequencies = ours.pos_frequencies.data.clone()
        ours.bfloat16().pos_frequencies.data = frequencies
        theirs.bfloat16().pos_frequencies.data = frequencies
        out, reference = run_both(ours, theirs, z.bfloat16(), sigma, features.bfloat16(), mask)
        ours_error += relative_error(out.float(), exact)
        theirs_error += relative_error(reference.float(), exact)
    assert ours_error <= theirs_error
