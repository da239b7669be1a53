"""The settings of a group, as a person chooses them."""

import math
import re
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ..config import DiTConfig
from ..errors import MochiError
from .split import usable_ranks

SHARDINGS = ("replicated", "sharded", "offloaded")
"""How ranks hold weights, see `ParallelSettings.sharding`."""

SHARDING_CHOICES = ("auto", *SHARDINGS)
TIMEOUT = 600.0
ROOM_FOR_WEIGHTS = 0.6
"""The share of a GPU's memory that weights may take before they are sharded; activations and the VAE need the rest."""

OLDEST_TORCH = (2, 11)
"""The oldest that is tested, and the oldest whose FSDP2 is known here."""


@dataclass(frozen=True)
class ParallelSettings:
    """How many devices work together, and what each does.

    People know `cfg_degree`, `ulysses_degree` and `sharding` as guidance, ulysses and weights.

    Attributes:
        gpus: how many ("4", "all") or which ("0,1,3"); on a machine without GPUs, "4" are ranks on the CPU.
        cfg_degree, ulysses_degree: of the split, 0 for the best.
        sharding: whether each rank holds all weights ("replicated"), its share by FSDP2 ("sharded"), or that in the
            machine's memory ("offloaded"); "auto" is replicated where that fits well.
        timeout: seconds without a sign of life or of progress after which a rank has failed.
        cpu: whether ranks are on the CPU though there are GPUs.
        place: where a person finds these settings, to follow their names in messages, such as " in the settings' node".
        cluster: the address of a Ray cluster, "auto" or HOST:PORT, whose machines work together; empty: this machine
            alone. Then `gpus` is how many of each machine.
        machines: how many of the cluster's, 0 for the best.
        interface: of the network by which they reach each other, on every machine; empty: the one that Ray uses.
        send_weights: whether machines that lack weights are sent them.

    Raises MochiError, naming the setting, on values that cannot be.
    """

    gpus: str = "all"
    cfg_degree: int = 0
    ulysses_degree: int = 0
    sharding: str = "auto"
    timeout: float = TIMEOUT
    cpu: bool = False
    place: str = ""
    cluster: str = ""
    machines: int = 0
    interface: str = ""
    send_weights: bool = False

    def __post_init__(self) -> None:
        if self.cfg_degree not in (0, 1, 2, 3):
            raise MochiError(f"guidance is {self.cfg_degree}, but must be 0 (auto), 1, 2 or 3")
        if self.ulysses_degree < 0:
            raise MochiError(f"ulysses is {self.ulysses_degree}, but must be 0 (auto) or a number of ranks")
        if self.sharding not in SHARDING_CHOICES:
            raise MochiError(f"weights is {self.sharding!r}, but must be one of {', '.join(SHARDING_CHOICES)}")
        if self.machines < 0:
            raise MochiError(f"machines is {self.machines}, but must be 0 (auto) or a number of machines")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise MochiError(f"timeout is {self.timeout}, but must be a number of seconds")

    @property
    def in_process(self) -> bool:
        """Whether only this process's own device is asked for, so that no group is needed."""
        return not self.cluster and "," not in self.gpus and (self.gpus.strip() == "1" or len(self.devices()) == 1)

    def sharding_for(self, nbytes: int, gpu_memory: int | None = None) -> str:
        """How the ranks hold weights of that size: "replicated", "sharded" or "offloaded".

        gpu_memory: of the smallest GPU, in bytes; by default of those of this machine.
        Raises MochiError where this torch cannot shard them.
        """
        sharding = self.sharding
        if sharding == "auto":
            room = gpu_memory or self._smallest_gpu()
            sharding = "replicated" if nbytes <= ROOM_FOR_WEIGHTS * room else "sharded"
        if sharding != "replicated" and _numbers_of_version(torch.__version__) < OLDEST_TORCH:
            raise MochiError(
                f"Weights that are {sharding} need torch {'.'.join(map(str, OLDEST_TORCH))} or newer, and this is "
                f"{torch.__version__}. Update it, or choose weights 'replicated'{self.place}."
            )
        return sharding

    def _smallest_gpu(self) -> float:
        """Bytes of memory; infinite where there is none."""
        gpus = [] if self.cluster else [device for device in self.devices() if device != "cpu"]
        return min((torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus), default=math.inf)

    def devices(self) -> tuple[str, ...]:
        """A device for each rank, such as ("cuda:0", "cuda:1"). Raises MochiError where there are too few."""
        available = 0 if self.cpu else torch.cuda.device_count()
        numbers = _numbers(self.gpus, available)
        if not available:
            return ("cpu",) * len(numbers)
        if missing := [number for number in numbers if number >= available]:
            found = "there is 1 GPU" if available == 1 else f"there are {available} GPUs"
            raise MochiError(
                f"gpus is {self.gpus!r}, but {found} here (numbered from 0): number {missing[0]} is missing. Choose "
                "fewer, or look at CUDA_VISIBLE_DEVICES and ComfyUI's --cuda-device, which hide GPUs."
            )
        if not dist.is_nccl_available():
            raise MochiError("This PyTorch has no NCCL, by which GPUs talk to each other. Choose 1 GPU.")
        return tuple(f"cuda:{number}" for number in numbers)


def _numbers_of_version(version: str) -> tuple[int, ...]:
    """Such as (2, 11) of `2.11.0a0+nv26.02`: a build from source has the features before the release."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _numbers(gpus: str, available: int) -> list[int]:
    """The device numbers that `gpus` names."""
    text = gpus.strip()
    if text == "all":
        # As many as Mochi's heads can be split over: on a machine with 5, 4.
        return list(range(usable_ranks(max(1, available), DiTConfig.num_heads)))
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if "," not in text and len(numbers) == 1 and numbers[0] > 0:
        return list(range(numbers[0]))
    if "," in text and numbers and min(numbers) >= 0 and len(set(numbers)) == len(numbers):
        return numbers
    raise MochiError(f"gpus is {gpus!r}, but must be 'all', a number of GPUs (4), or a list of them (0,1,3)")
