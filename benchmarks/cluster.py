"""What several machines should gain, and what limits 64 of them: `python -m benchmarks.cluster [--json]`.

Computed on paper, nothing is run. Work and rates are those of h100.py, which says what of them was measured and where;
bytes between machines are those of mochi/parallel/traffic.py and of flops.py, which the tests hold against counted
ones. The network is taken to reach --network-rate of its line rate in both directions at once, which is assumed; the
GPUs of a machine share it. What is sent is taken not to be hidden at all. What Ray itself takes is not known here:
--jobs-per-second, --start-seconds and --result-mb are for measured ones.

What is not in it: prompts and the making of the mp4 file (once a video, on the CPU), requests (noise, texts and
latents, 25 MB a rank and video), the latency of each exchange, launching of kernels, waiting for the slowest rank.
"""

import argparse
import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from benchmarks import flops, h100
from benchmarks.report import add_option, report
from mochi.config import PREVIEW, ModelConfig
from mochi.geometry import SPACE, frame_count, latent_shape
from mochi.memory import tokens_of
from mochi.parallel.split import Split, choose_split
from mochi.parallel.spmd.vae import plan_strips
from mochi.parallel.traffic import PassSize, bytes_between

BANDWIDTHS = (1, 10, 25, 100)
"""Gb/s of a network card, in each direction."""

MACHINES = (2, 4, 8, 16, 32, 64)
PIECE = 64 * 2**20
"""Bytes of the weights that are sent at a time."""


@dataclass(frozen=True)
class Setup:
    """Machines that are alike, and the video that they make.

    Attributes:
        card: of each.
        gpus: in each.
        latents: shape (B, 12, T, h, w).
        text: tokens of a prompt.
        network_rate: the part of a network's line rate that is reached.
        result: bytes of a finished video.
        itemsize: bytes of a value, as the networks compute.
    """

    card: h100.Machine
    gpus: int
    model: ModelConfig
    latents: tuple[int, ...]
    text: int
    steps: int
    network_rate: float
    result: float
    itemsize: int = 2

    def ranks_on(self, machines: int) -> tuple[int, ...]:
        """The machine of each rank of a group over so many machines."""
        return tuple(machine for machine in range(machines) for _ in range(self.gpus))

    def sending(self, nbytes: float, gbits: float) -> float:
        """Seconds for bytes that leave a machine."""
        return nbytes / (gbits / 8 * 1e9 * self.network_rate)


class Video(NamedTuple):
    """How long a video takes, and the bytes that all machines send each other for it."""

    seconds: float
    between: int


def split_of(setup: Setup, machines: tuple[int, ...], across: bool = False) -> Split:
    """Of a guided step. across: whether Ulysses goes over all ranks, as a person can choose."""
    ulysses = len(machines) if across else 0
    return choose_split(len(machines), setup.model.dit.num_heads, h100.PASSES, 0, ulysses, machines)


def leaving_in_a_step(setup: Setup, machines: tuple[int, ...], split: Split) -> dict[int, int]:
    """Bytes that leave each machine."""
    passes = [PassSize(setup.text)] * h100.PASSES
    return bytes_between(setup.model.dit, setup.latents, passes, split, machines, setup.itemsize)


def step_seconds(setup: Setup, machines: tuple[int, ...], split: Split, gbits: float) -> float:
    """A guided step over all ranks; weights are replicated. machines: of each rank."""
    p, inside = split.ulysses_degree, len(machines) // len(set(machines))
    visual = tokens_of(setup.model.dit, setup.latents)[1]
    of_pass = h100.forward_pass(setup.card, setup.model.dit, visual, setup.text, split, sharded=False)
    near = (min(p, inside) - 1) / (p - 1) if p > 1 else 0  # the part of what it sends that stays in the machine
    one = sum(of_pass) - of_pass.sending * (1 - near)
    leaving = max(leaving_in_a_step(setup, machines, split).values())
    return math.ceil(h100.PASSES / split.cfg_degree) * one + setup.sending(leaving, gbits)


def leaving_in_decoding(setup: Setup, machines: tuple[int, ...]) -> dict[int, int]:
    """Bytes that leave each machine for another as strips are decoded, and as their frames go to the first one."""
    frames, rows, columns = setup.latents[2:]
    strips = plan_strips(rows, columns, len(machines))
    leaving = flops.strips_between(setup.model.decoder, (frames, rows, columns), strips, machines, setup.itemsize)
    pictures = 3 * frame_count(frames) * rows * columns * SPACE**2
    for size, machine in zip(strips.sizes, machines, strict=False):
        if machine != machines[0]:
            leaving[machine] += pictures * size // sum(strips.sizes)
    return leaving


def decode_seconds(setup: Setup, machines: tuple[int, ...], gbits: float) -> float:
    strips = plan_strips(*setup.latents[3:], len(machines))
    work = flops.decoder_flops(setup.model.decoder, setup.latents[2:]) * max(strips.sizes) / sum(strips.sizes)
    return setup.card.multiplying(work) + setup.sending(max(leaving_in_decoding(setup, machines).values()), gbits)


def one_video(setup: Setup, machines: tuple[int, ...], gbits: float, across: bool = False) -> Video:
    """A video that all ranks make together. machines: of each rank."""
    split = split_of(setup, machines, across)
    steps = setup.steps * step_seconds(setup, machines, split, gbits)
    moved = [setup.steps * sum(leaving_in_a_step(setup, machines, split).values())]
    moved.append(sum(leaving_in_decoding(setup, machines).values()))
    return Video(steps + decode_seconds(setup, machines, gbits), sum(moved))


def shared(setup: Setup, machines: int, gbits: float) -> Video:
    """A video of one of several machines that make one each; the results share the network of the one that asked."""
    alone = one_video(setup, setup.ranks_on(1), gbits).seconds
    arriving = setup.sending(setup.result, gbits)
    return Video(max(alone + arriving, machines * arriving), int(setup.result))


def videos_table(setup: Setup) -> dict[str, dict[str, Any]]:
    """Seconds a video and videos an hour, by network, for each way to use one machine and several."""
    here, both = setup.ranks_on(1), setup.ranks_on(2)
    ways = {"1 machine": (1, [one_video(setup, here, gbits) for gbits in BANDWIDTHS])}
    if setup.model.dit.num_heads % len(here) == 0:
        ways["2 machines, one video, auto"] = 1, [one_video(setup, both, gbits) for gbits in BANDWIDTHS]
    if setup.model.dit.num_heads % len(both) == 0:
        ways["2 machines, one video, Ulysses across"] = 1, [one_video(setup, both, gbits, True) for gbits in BANDWIDTHS]
    for machines in MACHINES:
        ways[f"{machines} machines, a video each"] = machines, [shared(setup, machines, gbits) for gbits in BANDWIDTHS]
    return {
        way: {
            **{
                f"{gbits} Gb/s": f"{video.seconds:,.0f} s, {number(at_a_time * 3600 / video.seconds)} an hour"
                for gbits, video in zip(BANDWIDTHS, videos, strict=True)
            },
            "GB between machines a video": number(videos[0].between / 1e9),
        }
        for way, (at_a_time, videos) in ways.items()
    }


def decoding_table(setup: Setup) -> dict[str, dict[str, Any]]:
    """Seconds of decoding in strips of two machines, beside those of one."""
    ways = {"in strips of 2 machines": setup.ranks_on(2), "on one of them": setup.ranks_on(1)}
    return {
        way: {f"{gbits} Gb/s": f"{decode_seconds(setup, machines, gbits):.2g}" for gbits in BANDWIDTHS}
        for way, machines in ways.items()
    }


@dataclass(frozen=True)
class Rates:
    """What was measured of Ray and of the workers; 0 where nothing was.

    Attributes:
        jobs: that the scheduler hands out, a second.
        start: seconds until a worker has its models, without sending them.
        weights: bytes of a model.
    """

    jobs: float
    start: float
    weights: float


def limits_table(setup: Setup, rates: Rates) -> dict[str, dict[str, Any]]:
    """What many machines that make a video each ask of the scheduler and of the network of the one that asked."""
    table = {}
    for gbits in BANDWIDTHS:
        video = one_video(setup, setup.ranks_on(1), gbits).seconds
        for machines in (2, MACHINES[-1]):
            wanted = machines / video
            star = setup.sending(machines * rates.weights, gbits)
            chain = setup.sending(rates.weights + (machines - 1) * PIECE, gbits)
            table[f"{machines} machines, {gbits} Gb/s"] = {
                "videos a second": f"{wanted:.3g}",
                "of the scheduler": f"{100 * wanted / rates.jobs:.2g} %" if rates.jobs else "not measured yet",
                "of the network, results": f"{100 * setup.sending(wanted * setup.result, gbits):.2g} %",
                "weights, star": clock(star),
                "weights, chain": clock(chain),
                "first videos, chain": clock(chain + rates.start + video),
            }
    return table


def most_machines(setup: Setup, rates: Rates, gbits: float) -> dict[str, float]:
    """Up to how many machines the scheduler and the results' network go, by what limits; without what is not known."""
    video = one_video(setup, setup.ranks_on(1), gbits).seconds
    known = {"scheduler": rates.jobs * video} if rates.jobs else {}
    return known | {"results": video / setup.sending(setup.result, gbits)}


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def markdown(title: str, table: dict[str, dict[str, Any]]) -> str:
    columns = [title, *next(iter(table.values()))]
    rows = [columns, ["---"] * len(columns), *([name, *row.values()] for name, row in table.items())]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def main() -> None:
    known, says = h100.known_machine()
    options = _parser().parse_args()
    latents = latent_shape(options.width, options.height, options.frames)
    setup = Setup(
        known,
        options.gpus,
        PREVIEW,
        latents,
        options.text_tokens,
        options.steps,
        options.network_rate,
        1e6 * options.result_mb,
    )
    rates = Rates(options.jobs_per_second, options.start_seconds, 1e9 * options.weights_gb)
    videos, decoding, limits = videos_table(setup), decoding_table(setup), limits_table(setup, rates)
    most = {f"{gbits} Gb/s": most_machines(setup, rates, gbits) for gbits in BANDWIDTHS}
    if options.json:
        inputs = {"card": asdict(known), "rates": {"says": says}, "given": vars(options)}
        figures = {"videos": videos, "decoding": decoding, "many videos": limits, "machines": most}
        report("cluster", inputs | figures, as_json=True)
        return
    print(f"On paper: {options.gpus} GPUs a machine; rates of the cards: {says}.\n")
    print(markdown("a video: seconds, and videos an hour", videos), end="\n\n")
    print(markdown("decoding, s", decoding), end="\n\n")
    print(markdown("many videos", limits), end="\n\n")
    numbers = {gbits: {what: number(machines) for what, machines in row.items()} for gbits, row in most.items()}
    print(markdown("as many machines fill", numbers))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__.split("\n\n")[0])
    defaults = PREVIEW.defaults
    for name in ("width", "height", "frames", "steps"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help="default: %(default)s")
    numbers = {
        "network-rate": (0.9, "part of a network's line rate that is reached; assumed"),
        "result-mb": (10.0, "MB of a finished video; assumed"),
        "weights-gb": (30.0, "GB of a model: denoiser 20 GB, T5 9.5 GB, VAE"),
        "jobs-per-second": (0.0, "that the scheduler hands out; 0: not measured"),
        "start-seconds": (0.0, "until a worker has its models, without sending them"),
    }
    parser.add_argument("--gpus", type=int, default=4, help="in each machine (default: %(default)s)")
    parser.add_argument("--text-tokens", type=int, default=PREVIEW.dit.text_length, help="of each prompt, at most 256")
    for name, (value, text) in numbers.items():
        parser.add_argument(f"--{name}", type=float, default=value, help=f"{text} (default: %(default)s)")
    add_option(parser)
    return parser


if __name__ == "__main__":
    main()
