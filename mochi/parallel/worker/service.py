"""The service of a rank: a method for each type of request in `protocol`, which all ranks run in lockstep."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ...checkpoint import Checkpoint, load_decoder, load_encoder
from ...device_memory import give_back, memory_used, trim_heap
from ...dit import TextContext
from ...dit.attention import use_attention
from ...dit.backends import attention_named, describe
from ...dit.cache import Passes
from ...dit.runner import block_call
from ...errors import Cancelled
from ...sampling import Denoised, guide
from ...sampling import sample as euler
from ...transfer import Outgoing
from ...vae import Decoder, Encoder
from .. import protocol
from ..split import Split, choose_split
from ..spmd.bandwidth import bandwidth_between
from ..spmd.dit import ParallelDiT, Pass
from ..spmd.mesh import Meshes
from ..traffic import PassSize, bytes_between, warning_of
from .loop import Context
from .prompts import Prompts
from .strips import Strips
from .weights import RankWeights

log = logging.getLogger("mochi.rank")

Loaded = TypeVar("Loaded")


@dataclass
class RankDiT:
    """A denoiser on this rank.

    Attributes:
        network: the model of `weights` as one of several ranks.
        prompts: that it has read.
        attention: what computes it, in words.
    """

    weights: RankWeights
    network: ParallelDiT
    prompts: Prompts
    attention: str


class RankVAE(NamedTuple):
    """The VAE on this rank; one of the two parts can be missing."""

    decoder: Decoder | None
    encoder: Encoder | None


class Rank:
    """The service of a group; see Group and Context."""

    def __init__(self, context: Context):
        self.context = context
        self._meshes = Meshes(context.device.type, context.timeout, context.machines)
        self._strips = Strips(context)
        self._bandwidth: float | None = None  # between machines, bytes a second, once it was needed
        self._models: dict[str, Any] = {}  # RankDiT and RankVAE, by the name that the owner has given them
        self._handlers: dict[type, Callable[[Any], Any]] = {
            protocol.LoadDiT: self.load_dit,
            protocol.LoadVAE: self.load_vae,
            protocol.Unload: self.unload,
            protocol.PatchWeights: self.patch_weights,
            protocol.GetStatus: self.status,
            protocol.Sample: self.sample,
            protocol.Forward: self.forward,
            protocol.ForgetRun: self.forget_run,
            protocol.Decode: self.decode,
            protocol.Encode: self.encode,
        }

    def handle(self, request: protocol.Request) -> Any:
        """The answer to a request; see its class. Rank 0 alone answers with tensors, unless these are strips."""
        return self._handlers[type(request)](request)

    # --- models

    def load_dit(self, request: protocol.LoadDiT) -> protocol.Loaded:
        def load() -> RankDiT:
            device = self.context.device
            checkpoint = Checkpoint.open(request.path)
            head_dim = checkpoint.config("dit").head_dim
            chosen = request.attention, device, request.compute_dtype or torch.float32, head_dim
            attend = attention_named(*chosen)
            log.info("attention: %s", told := describe(*chosen))
            dtypes = request.weight_dtype, request.compute_dtype
            mates = None if request.sharding == "replicated" else self._meshes.mates()
            weights = RankWeights(
                checkpoint, *dtypes, device, request.sharding, self._report_loading, request.fast, mates
            )
            use_attention(weights.model.blocks, attend)
            network = ParallelDiT(weights.model, self._meshes, block_call(request.compiled))
            return RankDiT(weights, network, Prompts(network.encode_text), told)

        self._models[request.name] = dit = self._load(load)
        return protocol.Loaded(dit.weights.bytes, dit.attention)

    def load_vae(self, request: protocol.LoadVAE) -> protocol.Loaded:
        def load() -> RankVAE:
            device, dtype = self.context.device, request.dtype
            return RankVAE(
                None if request.decoder is None else load_decoder(request.decoder, dtype, device),
                None if request.encoder is None else load_encoder(request.encoder, dtype, device),
            )

        self._models[request.name] = vae = self._load(load)
        return protocol.Loaded(sum(p.nbytes for part in vae if part is not None for p in part.parameters()))

    def unload(self, request: protocol.Unload) -> int:
        for name in request.names:
            self._models.pop(name, None)
        give_back(self.context.device)
        return memory_used(self.context.device)

    def patch_weights(self, request: protocol.PatchWeights) -> int:
        dit = self._models[request.name]
        before = dit.weights.tensors_read
        dit.weights.patch(request.patches)
        dit.prompts.forget_all()  # patches can change what a prompt becomes
        return dit.weights.tensors_read - before

    def status(self, _: protocol.GetStatus) -> protocol.RankStatus:
        networks = [model.network.traffic for model in self._models.values() if isinstance(model, RankDiT)]
        strips = self._strips.traffic
        return protocol.RankStatus(
            memory_used(self.context.device),
            sorted(self._models),
            sent=sum(traffic.sent for traffic in networks),
            between=sum(traffic.between for traffic in networks),
            strips_sent=strips.sent,
            strips_between=strips.between,
        )

    # --- denoising

    def sample(self, request: protocol.Sample) -> Tensor | None:
        """Tells of each step, and in the end which passes a cache computed."""
        dit, cfg = self._denoiser(request), request.cfg
        positive, negative = dit.prompts.context(request.positive), dit.prompts.context(request.negative)
        started = time.monotonic()

        def predict(z: Tensor, sigma: Tensor, step: int) -> Tensor:
            level = request.sigmas[step]

            def side(number: int, prompt: TextContext, skip: Sequence[int] = ()) -> Pass:
                return Pass(z, sigma, prompt, [(number, row) for row in range(len(z))], level, skip)

            passes = [side(0, positive)]
            if cfg[step] != 1:
                passes.append(side(1, negative))
            if request.skip is not None:
                passes.append(side(2, positive, request.skip.layers))
            flows = dit.network.predict(passes, self._split(request, dit, len(passes)))
            flow = cond = flows[0]
            if cfg[step] != 1:
                flow = guide(cond, flows[1], cfg[step])
            return flow if request.skip is None else request.skip.guide(flow, cond, flows[-1])

        def tell(step: int, *tensors: Tensor) -> None:
            nonlocal started
            seconds, started = time.monotonic() - started, time.monotonic()
            self.context.emit(protocol.StepDone(step, len(cfg), seconds, memory_used(self.context.device), *tensors))

        def report(done: Denoised) -> None:
            shown = (done.latents, done.estimate) if self._is_first else ()
            outgoing.send(partial(tell, done.step), *shown)

        in_a_step = [PassSize(max(positive.lengths))]
        if any(scale != 1 for scale in cfg):
            in_a_step.append(PassSize(max(negative.lengths)))
        if request.skip is not None:
            in_a_step.append(PassSize(max(positive.lengths), request.skip.layers))
        split = self._split(request, dit, len(in_a_step))
        warning = self._warning(dit, split, request.noise.shape, in_a_step)
        self.context.emit(protocol.SplitChosen(split.described(len(in_a_step)), warning))
        try:
            with Outgoing(self.context.device) as outgoing:
                noise = request.noise.to(self.context.device)
                latents = euler(predict, noise, request.sigmas, report, self.context.cancelled, request.given)
        finally:  # a cancelled run, too, leaves nothing behind
            passes = dit.network.forget_run()
        if request.cache is not None:
            self.context.emit(protocol.PassesComputed(passes))
        trim_heap()  # not after each single pass: the next one would have to ask for the memory again
        return latents.cpu() if self._is_first else None

    def forward(self, request: protocol.Forward) -> Tensor | None:
        dit, device = self._denoiser(request), self.context.device
        z, sigma = request.z.to(device), torch.tensor(request.sigma, device=device)
        parts = 2 if len(z) % 2 == 0 else 1
        size = len(z) // parts
        passes = [
            Pass(
                z[part],
                sigma[part],
                dit.prompts.context(request.rows[part]),
                request.keys[part],
                request.level,
                request.skip,
            )
            for part in (slice(i, i + size) for i in range(0, len(z), size))
        ]
        split = self._split(request, dit, parts)
        sizes = [PassSize(max(one.text.lengths), request.skip) for one in passes]
        if warning := self._warning(dit, split, passes[0].z.shape, sizes):
            self.context.emit(protocol.SplitChosen(split.described(parts), warning))
        flows = dit.network.predict(passes, split)
        return torch.cat(flows).cpu() if self._is_first else None

    def forget_run(self, request: protocol.ForgetRun) -> Passes:
        return self._models[request.name].network.forget_run()

    def _denoiser(self, request: protocol.Denoise) -> RankDiT:
        """The model of a request, which has read its texts and knows of its cache."""
        dit: RankDiT = self._models[request.name]
        dit.prompts.read(request.texts, request.forget)
        dit.network.use_cache(request.cache)
        return dit

    def _split(self, request: protocol.Denoise, dit: RankDiT, passes: int) -> Split:
        heads, machines = dit.weights.model.config.num_heads, self.context.machines
        return choose_split(self.context.size, heads, passes, *request.degrees, machines)

    def _warning(self, dit: RankDiT, split: Split, latents: Sequence[int], passes: Sequence[PassSize]) -> str:
        """What the split costs, if passes are spread over machines; else empty. All ranks call it."""
        machines = self.context.machines
        if not split.crosses(machines):
            return ""
        if self._bandwidth is None:
            self._bandwidth = bandwidth_between(machines, self.context.device)
            log.info("between machines: %.3g bytes a second", self._bandwidth)
        model, itemsize = dit.weights.model, dit.weights.compute_dtype.itemsize
        return warning_of(
            split, bytes_between(model.config, latents, passes, split, machines, itemsize), self._bandwidth
        )

    # --- frames

    def decode(self, request: protocol.Decode) -> None:
        self._strips.decode(self._models[request.name].decoder, request)

    def encode(self, request: protocol.Encode) -> Tensor | None:
        return self._strips.encode(self._models[request.name].encoder, request)

    # --- shared

    @property
    def _is_first(self) -> bool:
        return self.context.rank == 0

    def _report_loading(self, done: int, total: int) -> None:
        if self.context.asked_to_cancel():
            raise Cancelled
        self.context.emit(protocol.TensorLoaded(done, total))

    def _load(self, load: Callable[[], Loaded]) -> Loaded:
        """Load on all ranks or on none: a rank that was asked to stop takes the others along."""
        loaded = None
        with suppress(Cancelled):  # the others hear of it
            loaded = load()
        stopped = torch.tensor([loaded is None], dtype=torch.uint8)
        dist.all_reduce(stopped, dist.ReduceOp.MAX)
        if loaded is None or stopped.item():
            raise Cancelled
        return loaded
