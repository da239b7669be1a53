"""The options of each command that makes videos: which model, on which devices, and how it computes."""

import argparse
from pathlib import Path

import torch

from ..dit.backends import ATTENTIONS, SDPA
from ..errors import MochiError
from ..model_dir import ModelDir, find_model
from ..parallel.settings import SHARDING_CHOICES, TIMEOUT, ParallelSettings
from . import given
from .lora import add_option

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the model").add_argument
    add("--model-dir", type=Path, metavar="DIR", help="weights; without it, the built-in tiny model")
    add(
        "--t5",
        type=Path,
        metavar="PATH",
        help="the text encoder, a file or a folder (default: that of the weights, else the one in the hub's cache)",
    )
    given.add_variant(add)
    add_option(add)
    add(
        "--dtype",
        choices=DTYPES,
        help="of weights and computation (default: float32 on the CPU, else bfloat16, "
        "and quantised weights stay as they are; float8: of weights only)",
    )
    add(
        "--attention",
        choices=ATTENTIONS,
        default=SDPA,
        help="torch's own (sdpa), FlashAttention 2 or 3, or SageAttention, where installed (default: %(default)s)",
    )
    add("--compile", action="store_true", help="compile the denoiser's blocks with torch.compile: slow to start")
    add("--device", help="such as cpu or cuda:1 (default: the GPU if there is one)")
    add(
        "--cpu-offload",
        action="store_true",
        help="the denoiser and the decoder are on the GPU only while they compute, and else in the computer's memory",
    )
    add = parser.add_argument_group("one video over several GPUs").add_argument
    add("--gpus", "--ranks", metavar="GPUS", help="how many (4, all) or which (0,1,3); without GPUs, ranks on the CPU")
    add("--guidance", type=int, default=0, choices=(0, 1, 2, 3), help="passes of a step at a time (default: the best)")
    add("--ulysses", type=int, default=0, metavar="RANKS", help="ranks for each pass (default: the best)")
    add("--weights", choices=SHARDING_CHOICES, default="auto", help="what each GPU holds (default: %(default)s)")
    add("--timeout", type=float, default=TIMEOUT, metavar="SECONDS", help="for a GPU to move on (default: %(default)s)")


def open_model(options: argparse.Namespace) -> ModelDir:
    """The model's files, checked. Raises CheckpointError naming what is missing."""
    if options.t5 is not None and options.model_dir is None:
        raise MochiError("--t5 is for weights of --model-dir: the built-in model has a text encoder of its own")
    return find_model(options.model_dir, options.t5)


def check_gpus(options: argparse.Namespace) -> ParallelSettings | None:
    """How to spread the work over devices of this machine, which must be there; None where one device does it."""
    if options.gpus is None:
        return None
    if options.device is not None:
        raise MochiError("give either --device, for one, or --gpus")
    parallel = ParallelSettings(options.gpus, options.guidance, options.ulysses, options.weights, options.timeout)
    parallel = None if parallel.in_process else parallel
    check_offload(options, parallel)
    return parallel


def check_offload(options: argparse.Namespace, parallel: ParallelSettings | None) -> None:
    """Raise MochiError where networks are to be on the CPU, and several devices share them."""
    if options.cpu_offload and parallel is not None:
        raise MochiError("--cpu-offload is for one GPU: with several, --weights offloaded does the same")


def check_device(name: str | None) -> torch.device | None:
    """The device of that name, which must be there."""
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MochiError(f"device {name!r} cannot be used here: {reason}") from error
    return device
