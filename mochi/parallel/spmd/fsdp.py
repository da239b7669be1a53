"""A model whose blocks' weights are spread over ranks (FSDP2). Kept apart, since the import takes a second."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ...dit import AsymmDiT


class ShardedLayout:
    """Each rank has some rows of every parameter of a block. A block is whole while it runs, and the next one arrives.

    Every rank has the rest whole, one per cent of the weights: text and positions are encoded outside `forward`.

    Args:
        model: on the meta device; FSDP2 is applied to it.
        offload: whether a rank keeps its rows in host memory.
        mates: the ranks that share the weights, those of one machine: a network would take longer to bring a block than
            the block takes to run.
    """

    def __init__(self, model: AsymmDiT, device: torch.device, offload: bool, mates: dist.ProcessGroup):
        self._device = device
        # On a CPU the weights are in host memory anyway.
        self._offload = offload and device.type != "cpu"
        self._pin = self._offload and torch.cuda.is_available()
        mesh = DeviceMesh.from_group(mates, device.type)  # with its timeout
        policy = CPUOffloadPolicy(pin_memory=self._pin) if self._offload else OffloadPolicy()
        whole = {p for name, p in model.named_parameters() if not name.startswith("blocks.")}
        with _parameters_without_gradients():
            for block in model.blocks:
                fully_shard(block, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
            fully_shard(model, mesh=mesh, ignored_params=whole)
        blocks = [block for block in model.blocks if isinstance(block, FSDPModule)]
        for block, following in pairwise(blocks):
            block.set_modules_to_forward_prefetch([following])
        model.register_forward_hook(lambda model, args, out: _without_backward(model))

    def rows(self, p: Tensor) -> slice:
        """Which rows of a parameter this rank has: FSDP2 cuts like torch.chunk, so the last ranks may have fewer."""
        count = p.shape[0]
        if not isinstance(p, DTensor):
            return slice(0, count)
        each = -(-count // p.device_mesh.size())
        start = min(p.device_mesh.get_local_rank() * each, count)
        return slice(start, min(start + each, count))

    def place(self, p: Tensor, rows: Tensor) -> Tensor:
        """This rank's rows of a parameter -> what can stand in the parameter's place, on its device."""
        if not isinstance(p, DTensor):
            return rows.to(self._device)
        local = rows.to("cpu" if self._offload else self._device)
        # Not by DTensor.from_local, which moves what is offloaded to the mesh's devices.
        return DTensor(local.pin_memory() if self._pin else local, p._spec, requires_grad=False)

    @staticmethod
    def prepare_gradients(model: AsymmDiT) -> None:
        """Bring each block of a model with its weights once, on all ranks, outside inference mode.

        FSDP keeps the tensors that a block arrives in, and only their memory comes and goes. Those that were first made
        in inference mode could not take part in a backward pass. These serve both.
        """
        for block in model.blocks:
            if isinstance(block, FSDPModule):
                block.unshard()
                block.reshard()


@contextmanager
def _parameters_without_gradients() -> Iterator[None]:
    """Let FSDP make parameters that have no gradients.

    Before torch 2.13 it makes each parameter one with gradients, and then asks whether it has any. Quantised weights,
    which are integers, cannot be that even for a moment.
    """
    if hasattr(FSDPModule, "reset_iter_state"):
        yield
        return
    from torch.distributed.fsdp._fully_shard import _fsdp_param

    module: Any = _fsdp_param
    whole = module.nn
    module.nn = SimpleNamespace(Parameter=partial(whole.Parameter, requires_grad=False), Module=whole.Module)
    try:
        yield
    finally:
        module.nn = whole


def _without_backward(model: Any) -> None:
    """Let FSDP forget the blocks that have run. It notes them for a backward pass, which only gradients bring."""
    if torch.is_grad_enabled():
        return
    if hasattr(model, "reset_iter_state"):  # torch 2.13
        model.reset_iter_state()
        return
    state = model._get_fsdp_state()
    state._comm_ctx.post_forward_order.clear()
    for one in state._state_ctx.all_states:
        if one._fsdp_param_group is not None:
            one._fsdp_param_group._post_forward_indices.clear()
