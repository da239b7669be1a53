"""What must hold of AsymmDiT whatever its weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.config import PREVIEW, DiTConfig
from mochi.dit import AsymmDiT
from mochi.vae import Decoder, Encoder
from tests.exact import relative_error
from tests.random_weights import randomised

CONFIG = DiTConfig(depth=3, num_heads=2, hidden_x=32, hidden_y=16, mlp_x=64, mlp_y=32, text_width=32, text_length=16)


@torch.inference_mode()
@given(
    masks=st.lists(st.lists(st.booleans(), min_size=16, max_size=16), min_size=1, max_size=3), seed=st.integers(0, 999)
)
@settings(max_examples=30)
def test_only_real_tokens_count(masks, seed):
    """A batch of masks with gaps equals each prompt alone, its real tokens moved to the front."""
    model = randomised(AsymmDiT(CONFIG), 0)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor(masks)
    batch = len(masks)
    features = torch.randn(batch, 16, 32, generator=generator)
    z = torch.randn(batch, 12, 2, 4, 6, generator=generator)
    sigma = torch.rand(batch, generator=generator)
    together = model(z, sigma, model.encode_text(features, mask))
    for b in range(batch):
        real = features[b : b + 1, mask[b]]
        padded = torch.cat((real, torch.full((1, 5, 32), 99.0)), dim=1)
        padded_mask = torch.arange(padded.shape[1])[None] < real.shape[1]
        alone = model(z[b : b + 1], sigma[b : b + 1], model.encode_text(padded, padded_mask))
        assert relative_error(together[b : b + 1], alone) < 2e-6


@torch.inference_mode()
def test_rotary_table_of_a_run_is_that_of_a_step():
    model = randomised(AsymmDiT(CONFIG), 0)
    z, sigma = torch.randn(1, 12, 2, 4, 6), torch.tensor([0.3])
    text = model.encode_text(torch.randn(1, 16, 32), torch.ones(1, 16, dtype=torch.bool))
    assert torch.equal(model(z, sigma, text), model(z, sigma, text, model.rotary(2, 4, 6)))


@pytest.mark.parametrize(
    ("network", "config", "count"),
    [
        (AsymmDiT, PREVIEW.dit, 10_027_677_744),
        (Decoder, PREVIEW.decoder, 362_526_595),
        (Encoder, PREVIEW.encoder, 97_222_016),
    ],
)
def test_published_parameter_counts(network, config, count):
    assert sum(p.numel() for p in network(config, device="meta").parameters()) == count
