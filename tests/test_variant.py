"""Which Mochi a file is, by its metadata and its name."""

from pathlib import Path

import pytest

from mochi.errors import MochiError
from mochi.variant import (
    DIT_LATENTS,
    FRAMES,
    PREVIEW,
    PUSA,
    RAW_LATENTS,
    VARIANTS,
    check_variant,
    given_latents,
    takes_frames,
    variant_of,
)


@pytest.mark.parametrize(
    ("name", "metadata", "variant", "reason"),
    [
        ("dit.safetensors", {}, PREVIEW, "nothing in dit.safetensors"),
        ("dit.safetensors", {"format": "pt"}, PREVIEW, "nothing"),
        ("pusa_v0_dit.safetensors", {}, PUSA, "in its name"),
        ("mochi-PUSA-Q4_0.gguf", {"format": "pt"}, PUSA, "in its name"),
        ("dit.safetensors", {"general.name": "Pusa V0.5"}, PUSA, "metadata of dit.safetensors"),
        ("dit.safetensors", {"pusa_version": "0.5"}, PUSA, "metadata"),
        ("dit.safetensors", {"variant": "frames"}, FRAMES, "metadata"),
        ("pusa_like.safetensors", {"variant": "preview"}, PREVIEW, "metadata"),  # what is said outright counts first
        ("pusa.safetensors", {"variant": "of some other tool"}, PUSA, "in its name"),
        ("Pusa-V0.5/dit.safetensors", {}, PUSA, "the folder of Pusa-V0.5/dit.safetensors"),
        ("pusa/models/dit.safetensors", {}, PREVIEW, "nothing in dit.safetensors"),
        ("dit.safetensors", {"variant": "of some other tool"}, PREVIEW, "'of some other tool', is none of preview"),
        ("dit.safetensors", {"workflow": "{" + "Pusa " * 100 + "}"}, PREVIEW, "nothing"),  # it mentions another file
    ],
)
def test_what_a_file_is(name, metadata, variant, reason):
    found, told = variant_of(Path("models", name), metadata)
    assert found == variant and reason in told


def test_what_each_takes():
    assert [takes_frames(variant) for variant in VARIANTS] == [False, True, True]
    assert {variant: given_latents(variant) for variant in (FRAMES, PUSA)} == {FRAMES: DIT_LATENTS, PUSA: RAW_LATENTS}


def test_a_variant_that_there_is_not():
    for variant in VARIANTS:
        check_variant(variant)
    with pytest.raises(MochiError, match="variant is 'fast', but must be one of preview, frames, pusa"):
        check_variant("fast")
