"""Damaged weight files: each loads to just what another library reads in it, or is refused with a clear error.

    python -m tests.checkpoint.mutations --count 500

makes that many from small valid files of every format, and prints how many of each loaded and were refused.
"""

import argparse
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mochi.checkpoint import Checkpoint, load_decoder, load_dit
from mochi.config import DecoderConfig, DiTConfig
from mochi.errors import CheckpointError
from mochi.quant import QuantLinear
from mochi.vae import Decoder
from tests.checkpoint import independent, toys, writers
from tests.checkpoint.damage import damaged
from tests.checkpoint.slots import slots
from tests.peers.diffusers import diffusers_dit
from tests.random_weights import randomised

SECONDS, MEMORY = 5, 1 << 30  # that a file may take

DIT = DiTConfig(depth=2, num_heads=2, hidden_x=32, hidden_y=32, mlp_x=32, mlp_y=32, text_width=32)
DECODER = DecoderConfig(base=32, multipliers=(1, 1), res_blocks=(1, 1, 1), temporal=(1,), spatial=(2,))
WIDE = DiTConfig(depth=1, num_heads=8, hidden_x=256, hidden_y=32, mlp_x=256, mlp_y=32, text_width=32)
THEIRS = DiTConfig(depth=1, num_heads=1, hidden_x=48, hidden_y=24, mlp_x=128, mlp_y=64, text_width=32)


@dataclass(frozen=True)
class Case:
    """A small valid file, and what loads it. published: whether its names are those of the network."""

    name: str
    content: bytes
    load: Callable[[Path], nn.Module]
    published: bool = True


@dataclass
class Tally:
    """How mutations of one kind ended; problems: those that ended as none may."""

    ends: Counter = field(default_factory=Counter)
    slowest: float = 0
    problems: list[str] = field(default_factory=list)


class TooSlow(BaseException):
    """Not an Exception, so that nothing takes it for damage of the file."""


def cases(folder: Path) -> list[Case]:
    """Small valid files of every format."""
    dit = toys.dit(DIT).state_dict()
    quants = writers.GGUFS | writers.QWEIGHTS | writers.FLOAT8S
    found = [Case(name, writer(folder, dit).read_bytes(), _quantised_dit) for name, writer in quants.items()]
    found = [case for case in found if case.name != "old scaled, prefix"]
    found += [Case(f"GGUF {k}", writers.gguf(folder, dit, k).read_bytes(), _quantised_dit) for k in ("F16", "BF16")]
    wide = toys.dit(WIDE).state_dict()
    found += [Case(f"GGUF {k}", writers.gguf(folder, wide, k).read_bytes(), _quantised_dit) for k in ("Q4_K", "IQ4_XS")]
    plain = toys.save(
        folder / "plain.safetensors", {n: w.bfloat16() for n, w in dit.items()}, config={"caption_heads": 8}
    )
    theirs = toys.save(folder / "theirs.safetensors", diffusers_dit(toys.dit(THEIRS)).state_dict())
    text = slots(folder)["t5"]
    decoder = toys.save(folder / "vae.safetensors", randomised(Decoder(DECODER), 0).half().state_dict())
    return [
        *found,
        Case("published", plain.read_bytes(), _plain_dit),
        Case("diffusers", theirs.read_bytes(), _plain_dit, published=False),
        Case("decoder", decoder.read_bytes(), lambda path: load_decoder(path, torch.float32)),
        Case("T5", writers.old_scaled(folder, text.weights).read_bytes(), lambda path: text.load(path).model),
        Case("T5 GGUF", writers.gguf(folder, text.weights, "Q8_0").read_bytes(), lambda path: text.load(path).model),
    ]


def _plain_dit(path: Path) -> nn.Module:
    return load_dit(path, torch.float32)


def _quantised_dit(path: Path) -> nn.Module:
    return load_dit(path, compute=torch.float32)


def end_of(case: Case, path: Path) -> str:
    """`refused`, `equal` or what is wrong about how it ended."""
    try:
        network = case.load(path)
    except CheckpointError as error:
        return "refused" if str(path) in str(error) and len(str(error)) < 2000 else f"unclear: {error}"
    expected = independent.values(path)
    entries = {name: entry.read() for name, entry in Checkpoint.open(path).tensors.items()}
    found = _dequantised(network) if case.published else entries
    if not case.published and len(found) != len(expected):
        return "another number of tensors"
    wrong = [name for name, value in found.items() if not _equal(value, expected[name])]
    wrong += [name for name, value in entries.items() if not _equal(value, expected[name])]
    return f"not equal: {wrong[0]}" if wrong else "equal"


def _dequantised(network: nn.Module) -> toys.Weights:
    """Its parameters, those of quantised layers dequantised."""
    weights = dict(network.named_parameters())
    for name, module in network.named_modules():
        if isinstance(module, QuantLinear):
            weights[f"{name}.weight"] = module.quant.dequantize(module.weight, torch.float32)
    return weights


def _equal(value: torch.Tensor, expected: torch.Tensor) -> bool:
    if value.shape != expected.shape:
        return False
    return np.array_equal(value.double().numpy(), expected.double().numpy(), equal_nan=True)


def run(folder: Path, count: int, first: int = 0) -> dict[str, Tally]:
    """Try that many mutations, of all files in turn."""
    signal.signal(signal.SIGALRM, _too_slow)
    files, tallies = cases(folder), {}
    path = folder / "mutated.safetensors"
    for seed in range(first, first + count):
        case = files[seed % len(files)]
        mutation, content = damaged(case.content, seed)
        path.write_bytes(content)
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            end = end_of(case, path)
        except (Exception, TooSlow):
            end = traceback.format_exc(limit=-6)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        tally = tallies.setdefault(mutation, Tally())
        tally.slowest = max(tally.slowest, time.monotonic() - start)
        tally.ends[end if end in ("equal", "refused") else "problem"] += 1
        if end not in ("equal", "refused"):
            tally.problems.append(f"{case.name}, seed {seed}, {mutation}: {end}")
    return tallies


def _too_slow(*_: object) -> None:
    raise TooSlow


def limit_memory() -> None:
    """From here on, no more than MEMORY on top."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases(Path(folder))  # loads all libraries
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        limit_memory()
        tallies = run(Path(folder), arguments.count, arguments.first)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{'mutation':24}{'equal':>8}{'refused':>9}{'problem':>9}{'slowest':>10}")
    for name, tally in sorted(tallies.items()):
        ends = "".join(f"{tally.ends[end]:{width}}" for end, width in (("equal", 8), ("refused", 9), ("problem", 9)))
        print(f"{name:24}{ends}{tally.slowest:8.2f} s")
    problems = [problem for tally in tallies.values() for problem in tally.problems]
    print(f"{sum(t.ends.total() for t in tallies.values())} files, memory grew by {grown:.0f} MB", *problems, sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
