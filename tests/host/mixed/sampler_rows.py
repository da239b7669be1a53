"""MODEL under the samplers of ComfyUI, one row for each kind of them."""

from __future__ import annotations

import torch

from tests.host.mixed.checks import equal, holds, unlike
from tests.host.mixed.graph import SEED, Graph, difference
from tests.host.mixed.rows import Section

SAMPLERS = Section("MODEL: samplers")

HIGHER_ORDER = ["heun", "heunpp2", "dpm_2", "dpmpp_2m", "ipndm", "deis", "res_multistep"]
UNI_PC = ["uni_pc", "uni_pc_bh2"]
ANCESTRAL = ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "res_multistep_ancestral", "lcm", "ddpm"]
CFG_PP = ["euler_cfg_pp", "euler_ancestral_cfg_pp", "dpmpp_2m_cfg_pp", "dpmpp_2s_ancestral_cfg_pp"]
STOCHASTIC = ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde", "seeds_2", "seeds_3", "sa_solver"]
OTHERS = ["dpm_fast", "lms", "ipndm_v", "gradient_estimation", "sa_solver_pece"]


@SAMPLERS.row("Load AsymmDiT, Mochi Sigmas", "SamplerCustom: euler, ddim", "Mochi Sampler")
def euler(g: Graph):
    for name in ("euler", "ddim"):
        yield equal(g.custom(name), g.ours())


@SAMPLERS.row(
    "Load AsymmDiT, Mochi Sigmas",
    f"SamplerCustom: {', '.join(HIGHER_ORDER)}",
    "200 steps of Mochi Sampler, to which 24 are nearer than 24 of Mochi Sampler; and with one process",
)
def higher_order(g: Graph):
    fine, coarse = (g.ours(steps=steps, cfg=2.0) for steps in (200, 24))

    for name in HIGHER_ORDER:
        made = g.custom(name, sigmas=g.sigmas(24), cfg=2.0)
        yield holds(nearer, made, coarse, fine, words="nearer")
        yield from as_in_one_process(g, name)


@SAMPLERS.row(
    "Load AsymmDiT",
    f"KSampler: {', '.join(UNI_PC)}",
    "200 steps of Mochi Sampler, to which 24 are nearer than 24 of Mochi Sampler; and with one process",
)
def uni_pc(g: Graph):
    # Not SamplerCustom: there UniPC writes into the SIGMAS that it is given, which the host keeps for other prompts.
    fine, coarse = (g.ours(steps=steps, cfg=2.0) for steps in (200, 24))
    for name in UNI_PC:
        made = g.ksampler(sampler_name=name, steps=24, cfg=2.0)
        yield holds(nearer, made, coarse, fine, words="nearer")
        if g.ranks > 1:
            yield equal(made, g.ksampler(model=g.single, sampler_name=name, steps=24, cfg=2.0))


@SAMPLERS.row(
    "Load AsymmDiT, Mochi Sigmas",
    f"SamplerCustom: {', '.join(ANCESTRAL)}",
    "Mochi Sampler, one step; four steps differ, and are compared with one process",
)
def ancestral(g: Graph):
    for name in ANCESTRAL:
        yield from one_step_is_ours(g, name)


@SAMPLERS.row(
    "Load AsymmDiT, Mochi Sigmas",
    f"SamplerCustom: {', '.join(CFG_PP)}",
    "Mochi Sampler, one step; four steps differ, and are compared with one process",
)
def cfg_pp(g: Graph):
    for name in CFG_PP:
        yield from one_step_is_ours(g, name)


@SAMPLERS.row(
    "Load AsymmDiT, Mochi Sigmas",
    f"SamplerCustom: {', '.join(STOCHASTIC)}",
    "itself with another seed, which differs, and with one process",
)
def stochastic(g: Graph):
    for name in STOCHASTIC:
        yield unlike(g.custom(name), g.custom(name, noise_seed=SEED + 1))
        yield from as_in_one_process(g, name)


@SAMPLERS.row(
    "Load AsymmDiT, Mochi Sigmas",
    f"SamplerCustom: {', '.join(OTHERS)}",
    "Mochi Sampler, from which they differ, and with one process",
)
def others(g: Graph):
    for name in OTHERS:
        yield from as_in_one_process(g, name)


def nearer(made: torch.Tensor, coarse: torch.Tensor, fine: torch.Tensor) -> None:
    assert difference(made, fine) < 0.8 * difference(coarse, fine)


def one_step_is_ours(g: Graph, name: str):
    yield equal(g.custom(name, sigmas=g.sigmas(1)), g.ours(steps=1))
    yield from as_in_one_process(g, name)


def as_in_one_process(g: Graph, name: str):
    if g.ranks > 1:
        yield equal(g.custom(name), g.custom(name, model=g.single))
    yield unlike(g.custom(name), g.ours())
