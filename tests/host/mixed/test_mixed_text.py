"""CLIP and CONDITIONING: our text encoder and our prompts, among built-in nodes."""

import pytest

from tests.host.mixed.checks import CheckedGraph
from tests.host.mixed.graph import OTHER, PROMPT, SEED, STEPS

SECTION = "CLIP and CONDITIONING"


@pytest.mark.mixed("Load T5, Mochi Sampler", "CLIP Text Encode", "Mochi Text Encode")
def test_clip_text_encode(g: CheckedGraph) -> None:
    g.assert_equal(g.mochi(positive=g("CLIPTextEncode", clip=g.clip, text=PROMPT)), g.ours())


@pytest.mark.mixed("Load T5, Load AsymmDiT", "CLIP Text Encode, KSampler", "Mochi Text Encode and Mochi Sampler, cfg 1")
def test_text_encode_and_ksampler(g: CheckedGraph) -> None:
    g.assert_equal(
        g.ksampler(positive=g("CLIPTextEncode", clip=g.clip, text=OTHER), cfg=1.0), g.ours(positive=g.other, cfg=1.0)
    )


@pytest.mark.mixed(
    "Mochi Text Encode, Mochi Sampler", "Conditioning (Combine)", "one of them, where both are the same prompt"
)
def test_combine_of_one_prompt(g: CheckedGraph) -> None:
    again = g("CLIPTextEncode", clip=g.clip, text=PROMPT)
    both = g("ConditioningCombine", conditioning_1=g.positive, conditioning_2=again)
    g.assert_equal(g.mochi(positive=both), g.ours())


@pytest.mark.mixed(
    "Mochi Text Encode, Mochi Sampler",
    "Conditioning (Combine)",
    "the same in the other order; one prompt alone differs",
)
def test_combine_of_two_prompts(g: CheckedGraph) -> None:
    there = g("ConditioningCombine", conditioning_1=g.positive, conditioning_2=g.other)
    back = g("ConditioningCombine", conditioning_1=g.other, conditioning_2=g.positive)
    g.assert_equal(g.mochi(positive=there), g.ours(positive=back))
    g.assert_differ(g.mochi(positive=there), g.ours())


@pytest.mark.mixed(
    "Mochi Text Encode, Mochi Sampler",
    "ConditioningSetTimestepRange",
    "the first steps with one prompt, the last with the other",
)
def test_timestep_range(g: CheckedGraph) -> None:
    early = g("ConditioningSetTimestepRange", conditioning=g.positive, start=0.0, end=0.5)
    late = g("ConditioningSetTimestepRange", conditioning=g.other, start=0.5, end=1.0)
    both = g("ConditioningCombine", conditioning_1=early, conditioning_2=late)
    high, low = g.split(g.sigmas(), STEPS - 1)  # the last step starts below the sigma that is half of the way
    begun = g.ours(sigmas=high)
    g.assert_equal(
        g.mochi(positive=both),
        g.custom(model=g.single, positive=g.other, sigmas=low, add_noise=False, latent_image=begun),
    )


@pytest.mark.mixed(
    "Mochi Text Encode, Mochi Sampler", "ConditioningAverage", "the first prompt at strength 1; at 0.5 it differs"
)
def test_average(g: CheckedGraph) -> None:
    def mixed(strength: float):
        parts = {"conditioning_to": g.positive, "conditioning_from": g.other}
        return g.mochi(positive=g("ConditioningAverage", conditioning_to_strength=strength, **parts))

    g.assert_equal(mixed(1.0), g.ours())
    g.assert_differ(mixed(0.5), g.ours())


@pytest.mark.mixed(
    "Mochi Text Encode, Mochi Sampler", "ConditioningZeroOut", "another prompt of the same length, zeroed too"
)
def test_zero_out(g: CheckedGraph) -> None:
    first, second = (g("ConditioningZeroOut", conditioning=prompt) for prompt in (g.positive, g.other))
    g.assert_equal(g.mochi(positive=first), g.ours(positive=second))
    g.assert_differ(g.mochi(positive=first), g.ours())


@pytest.mark.mixed(
    "Mochi Text Encode, Mochi Sampler", "Conditioning (Set Mask), SolidMask", "no mask, where it covers all"
)
def test_mask_of_all(g: CheckedGraph) -> None:
    mask = g("SolidMask", value=1.0, width=48, height=32)
    options = {"strength": 1.0, "set_cond_area": "default"}
    g.assert_equal(g.mochi(positive=g("ConditioningSetMask", conditioning=g.positive, mask=mask, **options)), g.ours())


@pytest.mark.mixed(
    "Mochi Text Encode, Mochi Sampler",
    "Conditioning (Set Area with Percentage for Video)",
    "no area, where it is all of the video",
)
def test_area_of_all(g: CheckedGraph) -> None:
    area = {"width": 1.0, "height": 1.0, "temporal": 1.0, "x": 0.0, "y": 0.0, "z": 0.0, "strength": 1.0}
    whole = g("ConditioningSetAreaPercentageVideo", conditioning=g.positive, **area)
    g.assert_equal(g.mochi(positive=whole), g.ours())


@pytest.mark.mixed("Mochi Text Encode", "Conditioning (Concat), KSampler", "Mochi reads one prompt")
def test_concat(g: CheckedGraph) -> None:
    joined = g("ConditioningConcat", conditioning_to=g.positive, conditioning_from=g.other)
    g.assert_refused(g.ksampler(positive=joined), "KSampler", "use Conditioning Combine or one longer prompt")
    g.assert_refused(g.mochi(positive=joined), "MochiParallelSampler", "use Conditioning Combine or one longer prompt")


@pytest.mark.mixed("Load T5", "CLIPTextEncodeFlux", "Mochi Text Encode")
def test_flux_encode(g: CheckedGraph) -> None:
    text = g("CLIPTextEncodeFlux", clip=g.clip, clip_l="", t5xxl=PROMPT, guidance=3.5)
    g.assert_equal(g.mochi(positive=text, seed=SEED), g.ours())


@pytest.mark.mixed(
    "Mochi Text Encode, Mochi Safety", "KSampler", "no Mochi Safety, where its list lets the prompt pass"
)
def test_safety(g: CheckedGraph) -> None:
    def checked(words: str):
        return g.ksampler(positive=g("MochiParallelSafety", output=1, conditioning=g.positive, words=words))

    g.assert_equal(checked("yellow"), g.ksampler())
    g.assert_refused(checked("yellow\ncircle"), "MochiParallelSafety", "blocked by the safety check words: 'circle'")
