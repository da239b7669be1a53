"""The processes that train one LoRA: groups of ranks, each of which trains on clips of its own."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..checkpoint import Checkpoint, fill
from ..checkpoint.checkpoint import Source
from ..checkpoint.plan import Whole
from ..device_memory import usual_device
from ..dit import AsymmDiT
from ..dit.runner import BlockCall, BlockRunner, call_block
from ..errors import MochiError
from ..parallel.machines import machine_of_each
from ..parallel.settings import SHARDINGS, ParallelSettings
from ..parallel.split import Split
from ..parallel.spmd.collectives import Traffic
from ..parallel.spmd.mesh import Meshes

if TYPE_CHECKING:
    from ..parallel.spmd.fsdp import ShardedLayout

PATIENCE = timedelta(hours=1)
"""How long a rank waits for the others, such as for the first one while it writes."""


class Ranks:
    """The processes that train together: those of torchrun, of a process group that is there, or this one alone.

    All of them make the same calls in the same order. Where weights are sharded that goes for forward and backward
    passes too, since every block comes from all ranks. torchrun ends all processes as soon as one has failed; elsewhere
    the others notice when their next operation has waited for as long as the process group does.

    Each rank has its own copy of the LoRA. It computes the loss of its group's clips, and `average` makes its gradients
    those of the mean loss over all groups. Ranks of one group share the tokens of its clips: they must be given the
    same clips, noise and levels. Dropout may differ among all ranks.

    Attributes:
        rank, size: the number of this process, and how many there are.
        device: that this process computes on.
        ulysses: ranks of a group.
        group, groups: the number of this rank's group, and how many there are.
        machines: the number of the machine of each rank.
    """

    def __init__(self, device: torch.device, ulysses: int = 1, machines: Sequence[int] = ()):
        joined = dist.is_initialized()
        self.device, self.ulysses = device, ulysses
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        self.machines = machine_of_each(machines, self.size)
        self.group, self.groups = self.rank // ulysses if ulysses > 0 else 0, max(self.size // max(ulysses, 1), 1)
        self._check_groups()
        self._owns_group = False
        self._meshes = Meshes(device.type, machines=self.machines) if joined else None

    @classmethod
    def join(
        cls,
        device: str | None = None,
        ulysses: int = 1,
        machines: Sequence[int] = (),
        patience: timedelta = PATIENCE,
    ) -> "Ranks":
        """Meet the others.

        Args:
            device: None: the GPU if there is one. torchrun's processes take one GPU each, in order.
            ulysses: ranks that share the tokens of a clip.
            machines: the number of the machine of each rank; by default as torchrun has it.
            patience: how long this rank waits for others, where it is torchrun's.

        Raises MochiError where ulysses does not divide the ranks of a machine, or GPUs are missing.
        """
        chosen = torch.device(device or usual_device())
        is_torchruns = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
        if is_torchruns:
            chosen = _device_of_torchrun(chosen.type)
            backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
            # FSDP and Ulysses each have a communicator; see parallel/owner/environment.py.
            os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
            dist.init_process_group(backend, timeout=patience)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        if dist.is_initialized() and not machines:
            machines = [int(number) for number in gathered(os.environ.get("GROUP_RANK", "0"))]
        ranks = cls(chosen, ulysses, machines)
        ranks._owns_group = is_torchruns
        return ranks

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and talks to the person."""
        return self.rank == 0

    # --- the model

    def load(
        self,
        checkpoint: Source,
        dtype: torch.dtype | None,
        compute: torch.dtype | None,
        sharding: str = "replicated",
        on_tensor: Callable[[int, int], None] | None = None,
        barrier: Callable[[], None] | None = None,
    ) -> AsymmDiT:
        """The frozen model of a file, as this rank has it. LoRAs are put on it afterwards.

        Args:
            dtype: of the weights, see `Checkpoint.plan`.
            compute: what weights that are not quantised are kept in, and all is computed in.
            sharding: "replicated": whole on the device. "sharded": the ranks of a machine have some rows each, and a
                block is whole while it runs. "offloaded": the same from the machine's memory, also for one rank.
            on_tensor: is told (tensors read, tensors in all). What it raises ends the loading, on this rank alone.
            barrier: called when all are read, before ranks do anything together.

        Raises CheckpointError on any other file, MochiError where so many ranks cannot share the model's heads.
        """
        with torch.inference_mode(False), torch.no_grad():  # else nothing could be kept for a backward pass
            plan = Checkpoint.open(checkpoint).plan("dit", weight_dtype=dtype, compute_dtype=compute)
            heads = plan.model.config.num_heads
            if heads % self.ulysses:
                raise MochiError(f"ulysses is {self.ulysses}, but must divide the model's {heads} heads")
            placement = self._placement(plan.model, sharding)
            model = fill(plan, placement=placement, on_tensor=on_tensor)
            if barrier is not None:
                barrier()
            if not isinstance(placement, Whole):
                placement.prepare_gradients(model)
            return model

    def _placement(self, model: AsymmDiT, sharding: str) -> "Whole | ShardedLayout":
        if sharding not in SHARDINGS:
            raise MochiError(f"sharding is {sharding!r}, but must be one of {', '.join(SHARDINGS)}")
        mates = len([machine for machine in self.machines if machine == self.machines[self.rank]])
        if sharding == "replicated" or (sharding == "sharded" and mates == 1):
            return Whole(self.device)
        ParallelSettings(sharding=sharding).sharding_for(0)  # whether this torch can
        if self._meshes is None:
            # FSDP wants a process group of one rank, too. Nothing listens for others.
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage] # which does not know that it is public
            dist.init_process_group("gloo", store=store, rank=0, world_size=1)
            self._owns_group, self._meshes = True, Meshes(self.device.type)
        from ..parallel.spmd.fsdp import ShardedLayout

        return ShardedLayout(model, self.device, sharding == "offloaded", self._meshes.mates())

    def runner(self, model: AsymmDiT, call: BlockCall = call_block) -> BlockRunner:
        """What stands around the blocks: to be given to each forward pass of the model.

        call: how each block is called, with gradients. Runners of other calls can be used in turn, with and without
        gradients.
        """
        if self._meshes is None or self.ulysses == 1:
            return BlockRunner(call)
        from ..parallel.spmd.ulysses_autograd import LearningShards

        split = Split(self.groups, self.ulysses)
        return LearningShards(self._meshes.peers(split, "ulysses_degree", Traffic()), call)

    def rotary(self, model: AsymmDiT, frames: int, height: int, width: int) -> Tensor:
        """The rotary table of this rank's tokens, for latents of a size. The runner takes that of all tokens too."""
        table = model.rotary(frames, height, width)
        if self.ulysses == 1:
            return table
        # Copied: a part that is a view would keep the whole table in memory.
        return table.tensor_split(self.ulysses)[self.rank % self.ulysses].clone()

    # --- among the ranks

    def average(self, gradients: Sequence[Tensor], *more: float) -> list[float]:
        """Make gradients, in place, and some numbers the mean over all ranks. Returns the numbers.

        One operation among the ranks. All get the same bits, so that their LoRAs stay alike.
        """
        if self.size == 1:
            return list(more)
        numbers = torch.tensor(more, dtype=torch.float32, device=self.device)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), numbers])
        dist.all_reduce(flat)
        *means, numbers = flat.div_(self.size).split([*(gradient.numel() for gradient in gradients), len(more)])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        return numbers.tolist()

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any rank."""
        if self.size == 1:
            return flag
        found = torch.tensor([flag], dtype=torch.uint8, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found.item())

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.any(False)

    def gather(self, value: Any) -> list[Any]:
        """A small value of each rank, such as a text, on all ranks."""
        return [value] if self.size == 1 else gathered(value)

    def from_first(self, value: Any) -> Any:
        """The first rank's value, on all ranks."""
        return self.gather(value)[0]

    def close(self) -> None:
        """Leave the process group, if it was made here."""
        if self._owns_group and dist.is_initialized():
            dist.destroy_process_group()
            self._owns_group = False

    def _check_groups(self) -> None:
        if self.ulysses < 1:
            raise MochiError(f"ulysses is {self.ulysses}, but must be at least 1")
        if self.size % self.ulysses:
            started = (
                "there is 1 process: have torchrun start as many (--nproc-per-node)"
                if self.size == 1
                else f"must divide the {self.size} processes"
            )
            raise MochiError(f"ulysses is {self.ulysses}, but {started}")
        if Split(self.groups, self.ulysses).crosses(self.machines):
            raise MochiError(
                f"ulysses is {self.ulysses}, but must divide the processes of each machine: a network between machines "
                "is too slow for tokens"
            )


def _device_of_torchrun(kind: str) -> torch.device:
    """The device of this process. Raises MochiError where torchrun has started more of them than there are GPUs."""
    if kind != "cuda":
        return torch.device(kind)
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= gpus:
        raise MochiError(
            f"torchrun has started {os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes on this machine, which has "
            f"{gpus} GPU(s): give it --nproc-per-node {gpus}"
        )
    return torch.device(kind, number)


def gathered(value: Any) -> list[Any]:
    """A small value of each rank of torch.distributed."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
