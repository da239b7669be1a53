"""MODEL under guiders and under nodes that patch its guidance or its blocks."""

from __future__ import annotations

from tests.host.mixed.checks import equal, refused, unlike
from tests.host.mixed.graph import CFG, Graph
from tests.host.mixed.rows import Section

GUIDANCE = Section("MODEL: guidance and patches")


@GUIDANCE.row(
    "Load AsymmDiT, Mochi Sigmas",
    "SamplerCustomAdvanced, DualCFGGuider",
    "Mochi Sampler, where two of the prompts are one",
)
def dual_cfg_guider(g: Graph):
    def guided(first, second, cfg_first: float, cfg_second: float, style: str):
        prompts = {"model": g.model, "cond1": first, "cond2": second, "negative": g.negative}
        scales = {"cfg_conds": cfg_first, "cfg_cond2_negative": cfg_second, "style": style}
        return g.guided(g("DualCFGGuider", **prompts, **scales))

    yield equal(guided(g.positive, g.negative, CFG, 3.0, "regular"), g.ours())
    yield equal(guided(g.positive, g.negative, CFG, 1.0, "nested"), g.ours())
    yield equal(guided(g.positive, g.positive, 3.0, CFG, "regular"), g.ours())
    yield unlike(guided(g.positive, g.other, 2.0, 3.0, "regular"), g.ours())


@GUIDANCE.row(
    "Load AsymmDiT, Mochi Sigmas",
    "SamplerCustomAdvanced, PerpNegGuider",
    "Mochi Sampler, where the negative prompt is the empty one",
)
def perp_neg_guider(g: Graph):
    def guided(negative, scale: float):
        prompts = {"positive": g.positive, "negative": negative, "empty_conditioning": g.negative}
        return g.guided(g("PerpNegGuider", model=g.model, **prompts, cfg=CFG, neg_scale=scale))

    yield equal(guided(g.negative, 1.0), g.ours())
    yield equal(guided(g.other, 0.0), g.ours())
    yield unlike(guided(g.other, 1.0), g.ours())


@GUIDANCE.row("Load AsymmDiT", "Perp-Neg, KSampler", "Mochi Sampler, where the negative prompt is the empty one")
def perp_neg(g: Graph):
    patched = g("PerpNeg", model=g.model, empty_conditioning=g.negative, neg_scale=1.0)
    yield equal(g.ksampler(model=patched), g.ours())
    yield unlike(g.ksampler(model=patched, negative=g.other), g.ours(negative=g.other))


@GUIDANCE.row(
    "Load AsymmDiT", "RescaleCFG, KSampler and Mochi Sampler", "Mochi Sampler, at multiplier 0; at 0.7 both samplers"
)
def rescale_cfg(g: Graph):
    yield equal(g.ksampler(model=g("RescaleCFG", model=g.model, multiplier=0.0)), g.ours())
    rescaled = g("RescaleCFG", model=g.model, multiplier=0.7)
    yield equal(g.ksampler(model=rescaled), g.ours(model=g("RescaleCFG", model=g.single, multiplier=0.7)))
    yield unlike(g.mochi(model=rescaled), g.ours())


@GUIDANCE.row(
    "Load AsymmDiT, Mochi Sampler", "Adaptive Projected Guidance", "Mochi Sampler, at eta 1, where it adds 1 to cfg"
)
def projected_guidance(g: Graph):
    def patched(eta: float):
        return g("APG", model=g.model, eta=eta, norm_threshold=0.0, momentum=0.0)

    yield equal(g.mochi(model=patched(1.0)), g.ours(cfg=CFG + 1))
    yield unlike(g.mochi(model=patched(0.0)), g.mochi(model=patched(1.0)))


@GUIDANCE.row("Load AsymmDiT", "SkipLayerGuidanceDiT, KSampler", "Mochi Sampler, at scale 0; at 3 it differs")
def skip_layer_guidance(g: Graph):
    def patched(scale: float):
        layers = {"double_layers": "1, 2", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
        return g("SkipLayerGuidanceDiT", model=g.model, scale=scale, rescaling_scale=0.0, **layers)

    yield equal(g.ksampler(model=patched(0.0)), g.ours())
    if g.ranks == 1:
        yield unlike(g.ksampler(model=patched(3.0)), g.ours())
    else:
        yield refused(g.ksampler(model=patched(3.0)), "KSampler", "Choose 1 GPU in Load AsymmDiT (Mochi), or remove")
        yield refused(g.mochi(model=patched(3.0)), "MochiSampler", "Choose 1 GPU in Load AsymmDiT (Mochi), or remove")


@GUIDANCE.row("TeaCache (Mochi)", "KSampler", "TeaCache (Mochi) and Mochi Sampler; at threshold 0 no cache")
def tea_cache(g: Graph):
    def cached(model, threshold: float):
        return g("MochiTeaCache", model=model, threshold=threshold)

    steps = {"steps": 12}
    yield equal(g.ksampler(model=cached(g.model, 0.2), **steps), g.ours(model=cached(g.single, 0.2), **steps))
    yield equal(g.ksampler(model=cached(g.model, 0.0), **steps), g.ours(**steps))
    yield unlike(g.ksampler(model=cached(g.model, 0.2), **steps), g.ours(**steps), 1e-3)


@GUIDANCE.row(
    "Load AsymmDiT, Mochi Sampler", "EasyCache, LazyCache, KSampler", "no cache, at threshold 0; at 0.5 both samplers"
)
def easy_cache(g: Graph):
    def cached(kind: str, threshold: float):
        when = {"start_percent": 0.0, "end_percent": 1.0, "verbose": False}
        return g(kind, model=g.model, reuse_threshold=threshold, **when)

    # What EasyCache skips depends on which prompts share a batch, and on ranks they do: so it is not one process.
    for kind in ("EasyCache", "LazyCache"):
        steps = {"steps": 12}
        yield equal(g.mochi(model=cached(kind, 0.0), **steps), g.ours(**steps))
        yield equal(g.ksampler(model=cached(kind, 0.5), **steps), g.mochi(model=cached(kind, 0.5), **steps))
        yield unlike(g.mochi(model=cached(kind, 0.5), **steps), g.ours(**steps), 1e-3)


@GUIDANCE.row(
    "Load AsymmDiT",
    "Context Windows (Manual), KSampler",
    "Mochi Sampler, where one window holds all; two windows differ",
)
def context_windows(g: Graph):
    def windows(model, length: int):
        options = {"context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "dim": 2}
        window = {"context_length": length, "context_overlap": 1, "context_schedule": "standard_static"}
        return g("ContextWindowsManual", model=model, **window, **options)

    yield equal(g.ksampler(model=windows(g.model, 3)), g.ours())
    yield equal(g.ksampler(model=windows(g.model, 2)), g.ours(model=windows(g.single, 2)))
    yield unlike(g.ksampler(model=windows(g.model, 2)), g.ours())


@GUIDANCE.row(
    "Load AsymmDiT",
    "CFGZeroStar, CFGNorm, TCFG, Mahiro, FreSca, KSampler",
    "Mochi Sampler with the same; no patch differs",
)
def other_guidance(g: Graph):
    scales = {"scale_low": 0.9, "scale_high": 1.2, "freq_cutoff": 2}
    for kind, widgets in {
        "CFGZeroStar": {},
        "CFGNorm": {"strength": 0.8},
        "TCFG": {},
        "Mahiro": {},
        "FreSca": scales,
    }.items():
        patched = g.ksampler(model=g(kind, model=g.model, **widgets))
        yield equal(patched, g.ours(model=g(kind, model=g.single, **widgets)))
        yield unlike(patched, g.ours(), 1e-4)


@GUIDANCE.row("Load AsymmDiT", "Differential Diffusion, SetLatentNoiseMask, KSampler", "Mochi Sampler with both")
def differential_diffusion(g: Graph):
    mask = g("SolidMask", value=0.5, width=48, height=32)
    masked = g("SetLatentNoiseMask", samples=g.ours(seed=1), mask=mask)
    patched, same = (g("DifferentialDiffusion", model=model) for model in (g.model, g.single))
    yield equal(g.ksampler(model=patched, latent_image=masked), g.ours(model=same, latent=masked))
    yield unlike(g.ksampler(model=patched, latent_image=masked), g.ours())
