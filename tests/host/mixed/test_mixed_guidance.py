"""MODEL under guiders and under nodes that patch its guidance or its blocks."""

import pytest

from tests.host.mixed.checks import CheckedGraph
from tests.host.mixed.graph import CFG, Link

SECTION = "MODEL: guidance and patches"


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sigmas",
    "SamplerCustomAdvanced, DualCFGGuider",
    "Mochi Sampler, where two of the prompts are one",
)
def test_dual_cfg_guider(g: CheckedGraph) -> None:
    def guided(first, second, cfg_first: float, cfg_second: float, style: str):
        prompts = {"model": g.model, "cond1": first, "cond2": second, "negative": g.negative}
        scales = {"cfg_conds": cfg_first, "cfg_cond2_negative": cfg_second, "style": style}
        return g.guided(g("DualCFGGuider", **prompts, **scales))

    g.assert_equal(guided(g.positive, g.negative, CFG, 3.0, "regular"), g.ours())
    g.assert_equal(guided(g.positive, g.negative, CFG, 1.0, "nested"), g.ours())
    g.assert_equal(guided(g.positive, g.positive, 3.0, CFG, "regular"), g.ours())
    g.assert_differ(guided(g.positive, g.other, 2.0, 3.0, "regular"), g.ours())


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sigmas",
    "SamplerCustomAdvanced, PerpNegGuider",
    "Mochi Sampler, where the negative prompt is the empty one",
)
def test_perp_neg_guider(g: CheckedGraph) -> None:
    def guided(negative, scale: float):
        prompts = {"positive": g.positive, "negative": negative, "empty_conditioning": g.negative}
        return g.guided(g("PerpNegGuider", model=g.model, **prompts, cfg=CFG, neg_scale=scale))

    g.assert_equal(guided(g.negative, 1.0), g.ours())
    g.assert_equal(guided(g.other, 0.0), g.ours())
    g.assert_differ(guided(g.other, 1.0), g.ours())


@pytest.mark.mixed("Load AsymmDiT", "Perp-Neg, KSampler", "Mochi Sampler, where the negative prompt is the empty one")
def test_perp_neg(g: CheckedGraph) -> None:
    patched = g("PerpNeg", model=g.model, empty_conditioning=g.negative, neg_scale=1.0)
    g.assert_equal(g.ksampler(model=patched), g.ours())
    g.assert_differ(g.ksampler(model=patched, negative=g.other), g.ours(negative=g.other))


@pytest.mark.mixed(
    "Load AsymmDiT", "RescaleCFG, KSampler and Mochi Sampler", "Mochi Sampler, at multiplier 0; at 0.7 both samplers"
)
def test_rescale_cfg(g: CheckedGraph) -> None:
    g.assert_equal(g.ksampler(model=g("RescaleCFG", model=g.model, multiplier=0.0)), g.ours())
    rescaled = g("RescaleCFG", model=g.model, multiplier=0.7)
    g.assert_equal(g.ksampler(model=rescaled), g.ours(model=g("RescaleCFG", model=g.single, multiplier=0.7)))
    g.assert_differ(g.mochi(model=rescaled), g.ours())


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sampler", "Adaptive Projected Guidance", "Mochi Sampler, at eta 1, where it adds 1 to cfg"
)
def test_projected_guidance(g: CheckedGraph) -> None:
    def patched(eta: float):
        return g("APG", model=g.model, eta=eta, norm_threshold=0.0, momentum=0.0)

    g.assert_equal(g.mochi(model=patched(1.0)), g.ours(cfg=CFG + 1))
    g.assert_differ(g.mochi(model=patched(0.0)), g.mochi(model=patched(1.0)))


def skipping(g: CheckedGraph, model: Link, scale: float, rescaling: float = 0.0) -> Link:
    """The model under ComfyUI's own skip-layer guidance, for the whole run."""
    layers = {"double_layers": "1, 2", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
    return g("SkipLayerGuidanceDiT", model=model, scale=scale, rescaling_scale=rescaling, **layers)


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sampler", "SkipLayerGuidanceDiT, KSampler", "Mochi Sampler with the same *stg_scale*"
)
def test_skip_layer_guidance(g: CheckedGraph) -> None:
    ours = g.ours(stg_scale=2.0, stg_layers="1, 2")
    g.assert_equal(g.ksampler(model=skipping(g, g.model, 2.0)), ours)
    g.assert_equal(g.mochi(stg_scale=2.0, stg_layers="1, 2"), ours)
    g.assert_equal(g.ksampler(model=skipping(g, g.model, 0.0)), g.ours())
    g.assert_differ(ours, g.ours())


@pytest.mark.mixed(
    "Load AsymmDiT",
    "SkipLayerGuidanceDiT with rescaling, SkipLayerGuidanceDiTSimple, KSampler",
    "Mochi Sampler with the same node; no node differs",
)
def test_other_skip_layer_guidance(g: CheckedGraph) -> None:
    simple = {"double_layers": "1, 2", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
    ways = (
        lambda model: skipping(g, model, 2.0, 0.7),
        lambda model: g("SkipLayerGuidanceDiTSimple", model=model, **simple),
    )
    for patched in ways:
        g.assert_equal(g.ksampler(model=patched(g.model)), g.ours(model=patched(g.single)))
        g.assert_differ(g.ksampler(model=patched(g.model)), g.ours())


@pytest.mark.mixed("TeaCache (Mochi)", "KSampler", "TeaCache (Mochi) and Mochi Sampler; at threshold 0 no cache")
def test_tea_cache(g: CheckedGraph) -> None:
    def cached(model, threshold: float):
        return g("MochiParallelTeaCache", model=model, threshold=threshold)

    steps = {"steps": 12}
    g.assert_equal(g.ksampler(model=cached(g.model, 0.2), **steps), g.ours(model=cached(g.single, 0.2), **steps))
    g.assert_equal(g.ksampler(model=cached(g.model, 0.0), **steps), g.ours(**steps))
    g.assert_differ(g.ksampler(model=cached(g.model, 0.2), **steps), g.ours(**steps), 1e-3)


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sampler", "EasyCache, LazyCache, KSampler", "no cache, at threshold 0; at 0.5 both samplers"
)
def test_easy_cache(g: CheckedGraph) -> None:
    def cached(kind: str, threshold: float):
        when = {"start_percent": 0.0, "end_percent": 1.0, "verbose": False}
        return g(kind, model=g.model, reuse_threshold=threshold, **when)

    # What EasyCache skips depends on which prompts share a batch, and on ranks they do: so it is not one process.
    for kind in ("EasyCache", "LazyCache"):
        steps = {"steps": 12}
        g.assert_equal(g.mochi(model=cached(kind, 0.0), **steps), g.ours(**steps))
        g.assert_equal(g.ksampler(model=cached(kind, 0.5), **steps), g.mochi(model=cached(kind, 0.5), **steps))
        g.assert_differ(g.mochi(model=cached(kind, 0.5), **steps), g.ours(**steps), 1e-3)


def windows(g: CheckedGraph, model: Link, length: int, freenoise: bool = False) -> Link:
    """The model, sampled in windows of so many latent frames."""
    window = {"context_length": length, "context_overlap": 1, "context_schedule": "standard_static"}
    options = {"context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "dim": 2}
    newer = {"freenoise": freenoise, "cond_retain_index_list": "", "latent_retain_index_list": ""}
    newer |= {"split_conds_to_windows": False, "causal_window_fix": False}
    return g.known("ContextWindowsManual", model=model, **window, **options, **newer)


@pytest.mark.mixed(
    "Load AsymmDiT",
    "Context Windows (Manual), KSampler",
    "Mochi Sampler, where one window holds all; two windows differ",
)
def test_context_windows(g: CheckedGraph) -> None:
    g.assert_equal(g.ksampler(model=windows(g, g.model, 3)), g.ours())
    g.assert_equal(g.ksampler(model=windows(g, g.model, 2)), g.ours(model=windows(g, g.single, 2)))
    g.assert_differ(g.ksampler(model=windows(g, g.model, 2)), g.ours())


@pytest.mark.mixed(
    "Load AsymmDiT",
    "CFGZeroStar, CFGNorm, TCFG, Mahiro, FreSca, KSampler",
    "Mochi Sampler with the same; no patch differs",
)
def test_other_guidance(g: CheckedGraph) -> None:
    scales = {"scale_low": 0.9, "scale_high": 1.2, "freq_cutoff": 2}
    for kind, widgets in {
        "CFGZeroStar": {},
        "CFGNorm": {"strength": 0.8},
        "TCFG": {},
        "Mahiro": {},
        "FreSca": scales,
    }.items():
        patched = g.ksampler(model=g(kind, model=g.model, **widgets))
        g.assert_equal(patched, g.ours(model=g(kind, model=g.single, **widgets)))
        g.assert_differ(patched, g.ours(), 1e-4)


@pytest.mark.mixed("Load AsymmDiT", "Differential Diffusion, SetLatentNoiseMask, KSampler", "Mochi Sampler with both")
def test_differential_diffusion(g: CheckedGraph) -> None:
    mask = g("SolidMask", value=0.5, width=48, height=32)
    masked = g("SetLatentNoiseMask", samples=g.ours(seed=1), mask=mask)
    patched, same = (g("DifferentialDiffusion", model=model) for model in (g.model, g.single))
    g.assert_equal(g.ksampler(model=patched, latent_image=masked), g.ours(model=same, latent=masked))
    g.assert_differ(g.ksampler(model=patched, latent_image=masked), g.ours())
