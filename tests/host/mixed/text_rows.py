"""CLIP and CONDITIONING: our text encoder and our prompts, among built-in nodes."""

from __future__ import annotations

from tests.host.mixed.checks import equal, refused, unlike
from tests.host.mixed.graph import OTHER, PROMPT, SEED, STEPS, Graph
from tests.host.mixed.rows import Section

TEXT = Section("CLIP and CONDITIONING")


@TEXT.row("Load T5, Mochi Sampler", "CLIP Text Encode", "Mochi Text Encode")
def clip_text_encode(g: Graph):
    yield equal(g.mochi(positive=g("CLIPTextEncode", clip=g.clip, text=PROMPT)), g.ours())


@TEXT.row("Load T5, Load AsymmDiT", "CLIP Text Encode, KSampler", "Mochi Text Encode and Mochi Sampler, cfg 1")
def text_encode_and_ksampler(g: Graph):
    yield equal(
        g.ksampler(positive=g("CLIPTextEncode", clip=g.clip, text=OTHER), cfg=1.0), g.ours(positive=g.other, cfg=1.0)
    )


@TEXT.row("Mochi Text Encode, Mochi Sampler", "Conditioning (Combine)", "one of them, where both are the same prompt")
def combine_of_one_prompt(g: Graph):
    again = g("CLIPTextEncode", clip=g.clip, text=PROMPT)
    yield equal(g.mochi(positive=g("ConditioningCombine", conditioning_1=g.positive, conditioning_2=again)), g.ours())


@TEXT.row(
    "Mochi Text Encode, Mochi Sampler",
    "Conditioning (Combine)",
    "the same in the other order; one prompt alone differs",
)
def combine_of_two_prompts(g: Graph):
    there = g("ConditioningCombine", conditioning_1=g.positive, conditioning_2=g.other)
    back = g("ConditioningCombine", conditioning_1=g.other, conditioning_2=g.positive)
    yield equal(g.mochi(positive=there), g.ours(positive=back))
    yield unlike(g.mochi(positive=there), g.ours())


@TEXT.row(
    "Mochi Text Encode, Mochi Sampler",
    "ConditioningSetTimestepRange",
    "the first steps with one prompt, the last with the other",
)
def timestep_range(g: Graph):
    early = g("ConditioningSetTimestepRange", conditioning=g.positive, start=0.0, end=0.5)
    late = g("ConditioningSetTimestepRange", conditioning=g.other, start=0.5, end=1.0)
    both = g("ConditioningCombine", conditioning_1=early, conditioning_2=late)
    high, low = g.split(g.sigmas(), STEPS - 1)  # the last step starts below the sigma that is half of the way
    begun = g.ours(sigmas=high)
    yield equal(
        g.mochi(positive=both),
        g.custom(model=g.single, positive=g.other, sigmas=low, add_noise=False, latent_image=begun),
    )


@TEXT.row(
    "Mochi Text Encode, Mochi Sampler", "ConditioningAverage", "the first prompt at strength 1; at 0.5 it differs"
)
def average(g: Graph):
    def mixed(strength: float):
        parts = {"conditioning_to": g.positive, "conditioning_from": g.other}
        return g.mochi(positive=g("ConditioningAverage", conditioning_to_strength=strength, **parts))

    yield equal(mixed(1.0), g.ours())
    yield unlike(mixed(0.5), g.ours())


@TEXT.row("Mochi Text Encode, Mochi Sampler", "ConditioningZeroOut", "another prompt of the same length, zeroed too")
def zero_out(g: Graph):
    first, second = (g("ConditioningZeroOut", conditioning=prompt) for prompt in (g.positive, g.other))
    yield equal(g.mochi(positive=first), g.ours(positive=second))
    yield unlike(g.mochi(positive=first), g.ours())


@TEXT.row("Mochi Text Encode, Mochi Sampler", "Conditioning (Set Mask), SolidMask", "no mask, where it covers all")
def mask_of_all(g: Graph):
    mask = g("SolidMask", value=1.0, width=48, height=32)
    options = {"strength": 1.0, "set_cond_area": "default"}
    yield equal(g.mochi(positive=g("ConditioningSetMask", conditioning=g.positive, mask=mask, **options)), g.ours())


@TEXT.row(
    "Mochi Text Encode, Mochi Sampler",
    "Conditioning (Set Area with Percentage for Video)",
    "no area, where it is all of the video",
)
def area_of_all(g: Graph):
    area = {"width": 1.0, "height": 1.0, "temporal": 1.0, "x": 0.0, "y": 0.0, "z": 0.0, "strength": 1.0}
    whole = g("ConditioningSetAreaPercentageVideo", conditioning=g.positive, **area)
    yield equal(g.mochi(positive=whole), g.ours())


@TEXT.row("Mochi Text Encode", "Conditioning (Concat), KSampler", "Mochi reads one prompt")
def concat(g: Graph):
    joined = g("ConditioningConcat", conditioning_to=g.positive, conditioning_from=g.other)
    yield refused(g.ksampler(positive=joined), "KSampler", "use Conditioning Combine or one longer prompt")
    yield refused(g.mochi(positive=joined), "MochiSampler", "use Conditioning Combine or one longer prompt")


@TEXT.row("Load T5", "CLIPTextEncodeFlux", "Mochi Text Encode")
def flux_encode(g: Graph):
    text = g("CLIPTextEncodeFlux", clip=g.clip, clip_l="", t5xxl=PROMPT, guidance=3.5)
    yield equal(g.mochi(positive=text, seed=SEED), g.ours())
