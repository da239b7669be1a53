"""The plan of a model over several ranks: how they split its work and hold its weights, if they can."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..dit import AsymmDiT
from ..dit.backends import check_attention
from ..errors import MochiError
from ..quant import QUANT_DTYPE
from .protocol import LoadDiT
from .settings import ParallelSettings
from .split import Split, choose_split


@dataclass(frozen=True)
class DiTPlan:
    """An AsymmDiT over several ranks.

    Attributes:
        request: loads it.
        degrees: cfg and Ulysses degree that a person has chosen, 0 for the best.
        split: of a step.
        nbytes: of the weights that each rank holds.
    """

    request: LoadDiT
    degrees: tuple[int, int]
    split: Split
    nbytes: int


def plan_dit(
    request: LoadDiT,
    model: AsymmDiT,
    settings: ParallelSettings,
    devices: Sequence[str],
    passes: int = 2,
    machines: Sequence[int] = (),
    smallest_gpu: int | None = None,
) -> DiTPlan:
    """Plan a model as a person has set it, now rather than when its first step fails.

    Args:
        request: to load it; the plan chooses its sharding.
        model: with its parameters as the ranks have them, which can be on the meta device.
        devices: one for each rank; of a cluster, by any names.
        passes: forward passes of a step, where that is known: 2 with guidance.
        machines: the number of the machine of each rank; empty where all are on one.
        smallest_gpu: see GroupManager.

    Raises MochiError where so many ranks cannot split the model, a device cannot compute attention in that way, or this
    torch cannot shard weights.
    """
    degrees = settings.cfg_degree, settings.ulysses_degree
    split = choose_split(len(devices), model.config.num_heads, passes, *degrees, machines)
    compute_dtype = request.compute_dtype or model.x_embedder.proj.weight.dtype
    for device in () if settings.cluster else set(devices):  # of other machines their ranks know
        check_attention(request.attention, device, compute_dtype, model.config.head_dim)
    itemsize = compute_dtype.itemsize
    nbytes = sum(p.numel() * (1 if p.dtype == QUANT_DTYPE else itemsize) for p in model.parameters())
    sharding = settings.sharding_for(nbytes, smallest_gpu)
    _check_shards(sharding, settings, devices, machines, nbytes)
    mates = len(devices) // len(set(machines) or {0})
    share = nbytes if sharding == "replicated" else nbytes // mates
    return DiTPlan(replace(request, sharding=sharding), degrees, split, share)


def _check_shards(
    sharding: str, settings: ParallelSettings, devices: Sequence[str], machines: Sequence[int], nbytes: int
) -> None:
    """Raise MochiError where weights are to be sharded among the ranks of machines that have one each."""
    if settings.cluster and sharding != "replicated" and len(devices) == len(set(machines)):
        raise MochiError(
            f"Weights of {nbytes / 1e9:.1f} GB cannot be {sharding}: the GPUs of a machine share them, and here each "
            f"has one. Choose more gpus{settings.place}, or smaller weights (float8, GGUF)."
        )
