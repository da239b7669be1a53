"""What the tests of training over ranks ask of a rank. It imports nothing of the tests: ranks do not have them."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import checkpoint as recomputation

from mochi.dit import PLAIN, AsymmDiT
from mochi.dit.runner import BlockCall, BlockRunner, call_block
from mochi.parallel.worker.loop import Context
from mochi.train.lora import LoraLinear, add_lora
from mochi.train.ranks import Ranks
from mochi.train.settings import Rank


class Batch(NamedTuple):
    """Clips of one size. sigma: (B,), or (B, T)."""

    z: Tensor
    sigma: Tensor
    features: Tensor
    mask: Tensor
    target: Tensor

    def part(self, number: int, parts: int) -> "Batch":
        """A group's share of the clips."""
        # Cloned, since what a rank is sent are tensors of inference.
        return Batch(*(t.tensor_split(parts)[number].clone() for t in self))


def with_lora(model: AsymmDiT) -> dict[str, LoraLinear]:
    """Put a LoRA on a model whose factors are all random: with B zero, A would have no gradient."""
    layers = add_lora(model, Rank(4, 4.0), Rank(3, 6.0))
    generator = torch.Generator().manual_seed(1)
    for layer in layers.values():
        layer.lora_B.data = torch.randn(layer.lora_B.shape, generator=generator) * 0.1
    return layers


def gradients_of(layers: dict[str, LoraLinear]) -> dict[str, Tensor]:
    """The gradient of each factor, by its name."""
    factors = {f"{name}.{factor}": getattr(layer, factor) for name, layer in layers.items() for factor in FACTORS}
    return {name: factor.grad for name, factor in factors.items()}


FACTORS = ("lora_A", "lora_B")


def loss_of(model: AsymmDiT, batch: Batch, runner: BlockRunner = PLAIN, rotary: Tensor | None = None) -> Tensor:
    text = model.encode_text(batch.features, batch.mask)
    return F.mse_loss(model(batch.z, batch.sigma, text, rotary, runner), batch.target)


def _checkpointed(block: nn.Module, *inputs: Any, **options: Any) -> tuple[Tensor, Tensor]:
    return recomputation.checkpoint(block, *inputs, use_reentrant=False, **options)


CALLS: dict[str, BlockCall] = {
    "nothing": call_block,
    "blocks": _checkpointed,
    "all but attention": partial(
        _checkpointed,
        context_fn=partial(
            recomputation.create_selective_checkpoint_contexts,
            [torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default],
        ),
    ),
}


class Trainer:
    """See Group. Requests are (method, its arguments); workers handle them in inference mode."""

    def __init__(self, context: Context):
        self._made: dict[Any, Ranks] = {}

    def handle(self, request: tuple[str, dict[str, Any]]) -> Any:
        method, arguments = request
        with torch.inference_mode(False), torch.enable_grad():
            return getattr(self, method)(**arguments)

    def learn(
        self,
        path: Path,
        batches: list[tuple[Tensor, ...]],
        sharding: str,
        ulysses: int,
        recompute: str,
        machines: tuple[int, ...] = (),
        own_rotary: bool = True,
    ) -> list[tuple[Any, ...]]:
        """The averaged gradients and loss of each batch, and the loss of the first one without gradients."""
        ranks = self._ranks(ulysses, machines)
        model = ranks.load(path, None, torch.float32, sharding)
        layers = with_lora(model)
        runner, plain = ranks.runner(model, CALLS[recompute]), ranks.runner(model)
        results = []
        for batch in batches:
            mine = Batch(*batch).part(ranks.group, ranks.groups)
            rotary = ranks.rotary(model, *mine.z.shape[2:]) if own_rotary else model.rotary(*mine.z.shape[2:])

            seen: list[float] = []
            for without_gradients in (torch.inference_mode, torch.no_grad) if batch is batches[0] else ():
                with without_gradients():  # as sample clips are made, between two steps
                    seen.append(loss_of(model, mine, plain, rotary).item())
            model.zero_grad()
            loss = loss_of(model, mine, runner, rotary)
            loss.backward()
            gradients = gradients_of(layers)
            results.append((gradients, *ranks.average(list(gradients.values()), loss.item(), *seen)))
        return results

    def refused(self, path: Path, **join: Any) -> str:
        """What a person is told."""
        try:
            Ranks.join("cpu", **join).load(path, None, None)
        except ValueError as error:
            return str(error)
        return ""

    def among(self) -> tuple[bool, bool, list[Any], Any]:
        """Flags and values of all ranks."""
        ranks = self._ranks(1, ())
        ranks.barrier()
        last = ranks.rank == ranks.size - 1
        return ranks.any(last), ranks.any(False), ranks.gather(ranks.rank), ranks.from_first(f"rank {ranks.rank}")

    def _ranks(self, ulysses: int, machines: tuple[int, ...]) -> Ranks:
        if (ulysses, machines) not in self._made:
            self._made[ulysses, machines] = Ranks.join("cpu", ulysses, machines)
        return self._made[ulysses, machines]
