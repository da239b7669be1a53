"""What one rank of 2, 4 and 8 computes, in a group whose other ranks are not there: the limit of scaling.

Nothing is sent, so results mean nothing, and the time is that of one rank's share. With the bytes that it would send,
over a link of the assumed rate and not hidden at all, it predicts a step over real ranks.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.fake_group import fake_group
from benchmarks.flops import sent
from benchmarks.h100 import PASSES, Machine
from mochi.dit import AsymmDiT
from mochi.parallel.split import choose_split
from mochi.parallel.spmd.dit import ParallelDiT, Pass
from mochi.parallel.spmd.mesh import Meshes
from mochi.parallel.spmd.vae import StripRanks, decode_strips, plan_strips
from mochi.vae import Decoder

from .measuring import all_kernels_ran, milliseconds, profiled
from .setting import Forward, Part, Setting

RANKS = (2, 4, 8)


def section(s: Setting) -> Iterator[Part]:
    alone: dict[str, float] = {}
    yield "one rank", lambda: one_rank(s, alone)
    for ranks in RANKS:
        yield f"{ranks} ranks, denoiser", partial(denoiser, s, ranks, alone)
        yield f"{ranks} ranks, decoder", partial(decoder, s, ranks, alone)


def one_rank(s: Setting, alone: dict[str, float]) -> dict[str, Any]:
    model = s.made(AsymmDiT, s.few_blocks())
    alone["step ms"] = PASSES * milliseconds(Forward(s, model), s.device)["ms"]
    network, z = s.made(Decoder, s.decoder), s.random(*s.latents)
    chunk = s.chunk(*s.latents)
    alone["decode ms"] = milliseconds(lambda: deque(network.stream(z, chunk), maxlen=0), s.device, repeats=1)["ms"]
    return {"blocks": len(model.blocks), "latent frames at a time": chunk, **alone, **all_kernels_ran()}


def denoiser(s: Setting, ranks: int, alone: dict[str, float]) -> dict[str, Any]:
    """A guided step of 4 blocks."""
    config = s.few_blocks()
    split = choose_split(ranks, config.num_heads, PASSES)
    with fake_group(ranks):
        model = s.made(AsymmDiT, config)
        forward, network = Forward(s, model), ParallelDiT(model, Meshes(s.device.type))
        passes = [Pass(forward.z.float(), forward.sigma, forward.context)] * PASSES
        figures = {"split": str(split), **share(s, lambda: network.predict(passes, split))}
    wire = sent(config, s.tokens, s.text, split.ulysses_degree).all if split.ulysses_degree > 1 else 0
    sending = 1e3 * Machine().sending(wire * PASSES // split.cfg_degree)
    return {**figures, **scaled(figures["ms"], sending, alone.get("step ms"))}


def decoder(s: Setting, ranks: int, alone: dict[str, float]) -> dict[str, Any]:
    """Borders and statistics are few bytes in many messages, of which a fake group tells nothing."""
    strips = plan_strips(*s.latents[3:], ranks)
    with fake_group(ranks):
        network, z, peers = s.made(Decoder, s.decoder), s.random(*s.latents), StripRanks()
        figures = share(s, lambda: deque(decode_strips(network, z, peers, strips.chunk), maxlen=0))
    return {"strips": list(strips.sizes), **figures, **scaled(figures["ms"], 0.0, alone.get("decode ms"))}


def share(s: Setting, run: Callable[[], Any]) -> dict[str, Any]:
    return {**milliseconds(run, s.device, repeats=2), "profile": profiled(run, s.device), **all_kernels_ran()}


def scaled(share_ms: float, sending_ms: float, alone_ms: float | None) -> dict[str, float | None]:
    """alone: of one rank; None where that was not measured."""
    predicted = share_ms + sending_ms
    speed_up = alone_ms / predicted if alone_ms else None
    return {"sending ms": sending_ms, "predicted ms": predicted, "predicted speed-up": speed_up}
