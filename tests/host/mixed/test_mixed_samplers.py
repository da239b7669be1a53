"""MODEL under the samplers of ComfyUI, one row for each kind of them."""

import pytest

from tests.host.mixed.checks import CheckedGraph
from tests.host.mixed.graph import SEED, Link, difference

SECTION = "MODEL: samplers"

HIGHER_ORDER = ["heun", "heunpp2", "dpm_2", "dpmpp_2m", "ipndm", "deis", "res_multistep"]
UNI_PC = ["uni_pc", "uni_pc_bh2"]
ANCESTRAL = ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "res_multistep_ancestral", "lcm", "ddpm"]
CFG_PP = ["euler_cfg_pp", "euler_ancestral_cfg_pp", "dpmpp_2m_cfg_pp", "dpmpp_2s_ancestral_cfg_pp"]
STOCHASTIC = ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde", "seeds_2", "seeds_3", "sa_solver"]
FINE, COARSE = 384, 48
"""Steps of whole schedules, of which `kept` are taken. In the last ones the tiny model's flow turns within a step, and
samplers of every order are as far off as Euler's: in halves of a step by half."""

NEARER = (
    f"{FINE} steps of Mochi Sampler, to which {COARSE} are nearer than {COARSE} of Mochi Sampler, all but the last "
    "sixth of them; and with one process"
)
OTHERS = ["dpm_fast", "lms", "ipndm_v", "gradient_estimation", "sa_solver_pece"]


@pytest.mark.mixed("Load AsymmDiT, Mochi Sigmas", "SamplerCustom: euler, ddim", "Mochi Sampler")
def test_euler(g: CheckedGraph) -> None:
    for name in ("euler", "ddim"):
        g.assert_equal(g.custom(name), g.ours())


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sigmas",
    f"SamplerCustom: {', '.join(HIGHER_ORDER)}",
    NEARER,
)
def test_higher_order(g: CheckedGraph) -> None:
    fine, coarse = fine_and_coarse(g)
    for name in HIGHER_ORDER:
        assert_nearer(g, g.custom(name, sigmas=but_the_last(g, COARSE), cfg=2.0), coarse, fine)
        assert_as_in_one_process(g, name)


@pytest.mark.mixed("Load AsymmDiT, Mochi Sigmas", f"KSampler, SamplerCustom: {', '.join(UNI_PC)}", NEARER)
def test_uni_pc(g: CheckedGraph) -> None:
    fine, coarse = fine_and_coarse(g)
    for name in UNI_PC:
        assert_nearer(g, g.custom(name, sigmas=but_the_last(g, COARSE), cfg=2.0), coarse, fine)
        if g.ranks > 1:
            # Not SamplerCustom: for a level of 0 UniPC writes another into the SIGMAS, which the host keeps for others.
            g.assert_equal(*(g.ksampler(model=model, sampler_name=name, cfg=2.0) for model in (g.model, g.single)))


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sigmas",
    f"SamplerCustom: {', '.join(ANCESTRAL)}",
    "Mochi Sampler, one step; four steps differ, and are compared with one process",
)
def test_ancestral(g: CheckedGraph) -> None:
    for name in ANCESTRAL:
        assert_one_step_is_ours(g, name)


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sigmas",
    f"SamplerCustom: {', '.join(CFG_PP)}",
    "Mochi Sampler, one step; four steps differ, and are compared with one process",
)
def test_cfg_pp(g: CheckedGraph) -> None:
    for name in CFG_PP:
        assert_one_step_is_ours(g, name)


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sigmas",
    f"SamplerCustom: {', '.join(STOCHASTIC)}",
    "itself with another seed, which differs, and with one process",
)
def test_stochastic(g: CheckedGraph) -> None:
    for name in STOCHASTIC:
        g.assert_differ(g.custom(name), g.custom(name, noise_seed=SEED + 1))
        assert_as_in_one_process(g, name)


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sigmas",
    f"SamplerCustom: {', '.join(OTHERS)}",
    "Mochi Sampler, from which they differ, and with one process",
)
def test_others(g: CheckedGraph) -> None:
    for name in OTHERS:
        assert_as_in_one_process(g, name)


def kept(steps: int) -> int:
    """The steps down to a noise level of 0.54."""
    return steps * 5 // 6


def but_the_last(g: CheckedGraph, steps: int) -> Link:
    return g.split(g.sigmas(steps), kept(steps))[0]


def fine_and_coarse(g: CheckedGraph) -> list[Link]:
    return [g.ours(sigmas=but_the_last(g, steps), cfg=2.0) for steps in (FINE, COARSE)]


def assert_nearer(g: CheckedGraph, made: Link, coarse: Link, fine: Link) -> None:
    made, coarse, fine = g.run(made, coarse, fine)
    assert difference(made, fine) < 0.8 * difference(coarse, fine)
    g.note("nearer")


def assert_one_step_is_ours(g: CheckedGraph, name: str) -> None:
    g.assert_equal(g.custom(name, sigmas=g.sigmas(1)), g.ours(steps=1))
    assert_as_in_one_process(g, name)


def assert_as_in_one_process(g: CheckedGraph, name: str) -> None:
    if g.ranks > 1:
        g.assert_equal(g.custom(name), g.custom(name, model=g.single))
    g.assert_differ(g.custom(name), g.ours())
