"""What can be asked of a rank. Each method runs on all ranks in lockstep, by name, with the same arguments.

Models have names, chosen by the owner. Results that are tensors come from rank 0 alone, on the CPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ...checkpoint import Checkpoint, load_decoder, load_encoder
from ...device_memory import give_back, memory_used, trim_heap
from ...dit.attention import use_attention
from ...dit.backends import SDPA, attention_named, describe
from ...dit.cache import CachePlan, Key, Passes
from ...errors import Cancelled
from ...frames import to_pictures
from ...lora.patch import FlatPatches, restore_patches
from ...sampling import Denoised, guide
from ...sampling import sample as euler
from ...transfer import Outgoing
from ...vae import Decoder, Encoder
from ..split import choose_split
from ..spmd.dit import ParallelDiT, Pass
from ..spmd.mesh import Meshes
from ..spmd.vae import StripRanks, decode_strips, encode_strip, plan_strips
from .loop import Context
from .prompts import Prompts, Rows, Texts
from .weights import RankWeights

log = logging.getLogger("mochi.rank")

Loaded = TypeVar("Loaded")


class RankDiT:
    """A denoiser on this rank: its weights, the parallel network, the prompts it has read. attention: in words."""

    def __init__(self, weights: RankWeights, meshes: Meshes, compiled: bool = False, attention: str = SDPA):
        self.weights, self.attention = weights, attention
        if compiled:
            from ...dit.compiled import CompiledBlocks

            self.network = ParallelDiT(weights.model, meshes, CompiledBlocks())
        else:
            self.network = ParallelDiT(weights.model, meshes)
        self.prompts = Prompts(self.network.encode_text)

    @property
    def heads(self) -> int:
        return self.weights.model.config.num_heads


class RankVAE:
    """The VAE on this rank; one of the two parts can be missing."""

    def __init__(self, decoder: Decoder | None, encoder: Encoder | None):
        self.decoder, self.encoder = decoder, encoder


class Rank:
    """The service of a group; see Group and Context."""

    def __init__(self, context: Context):
        self.context = context
        self._meshes = Meshes(context.device.type, context.timeout)
        self._strip_ranks = StripRanks(context.timeout)
        self._models: dict[str, RankDiT | RankVAE] = {}

    # --- models

    def load_dit(
        self,
        name: str,
        path: Path,
        dtype: torch.dtype | None,
        compute_dtype: torch.dtype | None,
        weights: str,
        fast: bool = False,
        attention: str = SDPA,
        compiled: bool = False,
    ) -> dict[str, Any]:
        """Load an AsymmDiT; see RankWeights and RemoteDiT. Returns this rank's bytes of weights, and what computes
        attention here, in words."""

        def load() -> RankDiT:
            device, progress = self.context.device, self._report_loading
            checkpoint = Checkpoint.open(path)
            sizes = checkpoint.config("dit")
            computed = attention, device, compute_dtype or torch.float32, sizes.head_dim
            attend = attention_named(*computed)
            log.info("attention: %s", told := describe(*computed))
            loaded = RankWeights(checkpoint, dtype, compute_dtype, device, weights, progress, fast)
            use_attention(loaded.model.blocks, attend)
            return RankDiT(loaded, self._meshes, compiled, told)

        self._models[name] = dit = self._load(load)
        return {"bytes": dit.weights.bytes, "attention": dit.attention}

    def load_vae(self, name: str, decoder: Path | None, encoder: Path | None, dtype: torch.dtype) -> dict[str, Any]:
        """Load the decoder, the encoder or both, each from its file; every rank has all of it."""

        def load() -> RankVAE:
            device = self.context.device
            return RankVAE(
                None if decoder is None else load_decoder(decoder, dtype, device),
                None if encoder is None else load_encoder(encoder, dtype, device),
            )

        self._models[name] = vae = self._load(load)
        parts = [part for part in (vae.decoder, vae.encoder) if part is not None]
        return {"bytes": sum(p.numel() * p.element_size() for part in parts for p in part.parameters())}

    def unload(self, names: Sequence[str]) -> int:
        """Forget models and give their memory back. Returns the bytes that this rank still holds."""
        for name in names:
            self._models.pop(name, None)
        give_back(self.context.device)
        return memory_used(self.context.device)

    def patch(self, name: str, patches: FlatPatches) -> int:
        """Put patches (see RankWeights) on the pristine weights, in place of those before. Returns the tensors read."""
        dit = self._models[name]
        before = dit.weights.tensors_read
        dit.weights.patch(restore_patches(patches))
        dit.prompts.forget_all()  # patches can change what a prompt becomes
        return dit.weights.tensors_read - before

    def status(self) -> dict[str, Any]:
        """Memory in bytes, the models that are loaded, and the bytes of activations that this rank has sent."""
        sent = sum(model.network.bytes_sent for model in self._models.values() if isinstance(model, RankDiT))
        return {"memory": memory_used(self.context.device), "models": sorted(self._models), "sent": sent}

    # --- denoising

    def sample(
        self,
        name: str,
        noise: Tensor,
        sigmas: Sequence[float],
        cfg: Sequence[float],
        positive: Rows,
        negative: Rows,
        texts: Texts,
        forget: Sequence[int],
        degrees: tuple[int, int],
        cache: tuple | None = None,
    ) -> Tensor | None:
        """A whole run of the Euler loop from noise (B, 12, T, h, w). cfg: a scale for each step; degrees: guidance and
        Ulysses, 0 for the best. Emits each step; rank 0 with its latents and its estimate of the clean ones. cache: the
        fields of a CachePlan; in the end each rank emits which passes it computed.
        """
        dit = self._models[name]
        dit.prompts.read(texts, forget)
        dit.network.use_cache(None if cache is None else CachePlan(*cache))
        prompts = dit.prompts.context(positive), dit.prompts.context(negative)
        started = time.monotonic()

        def predict(z: Tensor, sigma: Tensor, step: int) -> Tensor:
            keys = [[(side, row) for row in range(len(z))] for side in range(2)]
            sides = zip(prompts[:1] if cfg[step] == 1 else prompts, keys)
            passes = [Pass(z, sigma, prompt, keys_of_side) for prompt, keys_of_side in sides]
            flows = dit.network.predict(passes, self._split(dit, len(passes), degrees))
            return flows[0] if len(flows) == 1 else guide(flows[0], flows[1], cfg[step])

        def tell(step: int, *tensors: Tensor) -> None:
            nonlocal started
            seconds, started = time.monotonic() - started, time.monotonic()
            self.context.emit(
                phase=f"step {step} of {len(cfg)}",
                step=step,
                steps=len(cfg),
                seconds=seconds,
                memory=memory_used(self.context.device),
                **dict(zip(("latents", "estimate"), tensors)),
            )

        def report(done: Denoised) -> None:
            shown = (done.latents, done.estimate) if self._first else ()
            outgoing.send(partial(tell, done.step), *shown)

        self.context.emit(split=str(self._split(dit, 2 if any(scale != 1 for scale in cfg) else 1, degrees)))
        try:
            with Outgoing(self.context.device) as outgoing:
                latents = euler(predict, noise.to(self.context.device), sigmas, report, self.context.cancelled)
        finally:  # a cancelled run, too, leaves nothing behind
            passes = dit.network.forget_run()
        if cache is not None:
            self.context.emit(passes=passes)
        trim_heap()  # not behind each single pass: what it frees, the next one would have to ask for again
        return latents.cpu() if self._first else None

    def forward(
        self,
        name: str,
        z: Tensor,
        sigma: Sequence[float],
        rows: Rows,
        texts: Texts,
        forget: Sequence[int],
        degrees: tuple[int, int],
        cache: tuple | None = None,
        keys: Sequence[Key] = (),
    ) -> Tensor | None:
        """One forward pass: z (B, 12, T, h, w) at sigma (B,), a prompt for each sample -> `z_0 - eps`, float32.

        A batch of an even size, as ComfyUI makes it of the two sides of guidance, is two passes. cache: the fields of
        the run's CachePlan, with a key for each sample; the run ends with `forget_run`.
        """
        dit = self._models[name]
        dit.prompts.read(texts, forget)
        dit.network.use_cache(None if cache is None else CachePlan(*cache))
        z, levels = z.to(self.context.device), torch.tensor(sigma, device=self.context.device)
        parts = 2 if len(z) % 2 == 0 else 1
        size = len(z) // parts
        passes = [
            Pass(z[i : i + size], levels[i : i + size], dit.prompts.context(rows[i : i + size]), keys[i : i + size])
            for i in range(0, len(z), size)
        ]
        flows = dit.network.predict(passes, self._split(dit, parts, degrees))
        return torch.cat(flows).cpu() if self._first else None

    def forget_run(self, name: str) -> Passes:
        """Free what was kept for the forward passes of a run. Returns which of them a cache computed here."""
        return self._models[name].network.forget_run()

    # --- frames

    def decode(self, name: str, z: Tensor, as_bytes: bool = False) -> None:
        """VAE latents (B, 12, T, h, w): emits this rank's strip of the frames of each chunk of latent frames, in about
        -1 to 1 or, as bytes, in uint8."""
        total, chunk = z.shape[2], plan_strips(*z.shape[3:], self.context.size).chunk
        strips = decode_strips(self._models[name].decoder, z, self._strip_ranks, chunk)

        def tell(first: int, strip: Tensor) -> None:
            done, memory = min(first + chunk, total), memory_used(self.context.device)
            self.context.emit(
                phase=f"latent frame {done} of {total}", first=first, done=done, strip=strip, memory=memory
            )

        with Outgoing(self.context.device) as outgoing:
            for first in range(0, total, chunk):
                strip = next(strips, None)  # a rank without a strip comes along, to hear of a cancel with the others
                if strip is not None:
                    outgoing.send(partial(tell, first), to_pictures(strip, as_bytes=True) if as_bytes else strip)
                if self.context.cancelled():
                    raise Cancelled
        trim_heap()

    def encode(self, name: str, video: Tensor) -> Tensor | None:
        """Frames (B, 3, F, H, W) in -1 to 1 -> this rank's strip of the mean latents, if it has one."""

        def report(done: int, total: int) -> None:
            self.context.emit(phase=f"piece {done} of {total}", done=done, total=total)

        strip = encode_strip(self._models[name].encoder, video, self._strip_ranks, report)
        trim_heap()
        return None if strip is None else strip.cpu()

    # --- shared

    @property
    def _first(self) -> bool:
        return self.context.rank == 0

    def _split(self, dit: RankDiT, passes: int, degrees: tuple[int, int]) -> Any:
        return choose_split(self.context.size, dit.heads, passes, *degrees)

    def _report_loading(self, done: int, total: int) -> None:
        if self.context.asked_to_cancel():
            raise Cancelled
        self.context.emit(phase=f"tensor {done} of {total}", tensor=done, tensors=total)

    def _load(self, load: Callable[[], Loaded]) -> Loaded:
        """Load on all ranks or on none: a rank that was asked to stop takes the others along."""
        loaded = None
        try:
            loaded = load()
        except Cancelled:
            self.context.emit(phase="cancelled")
        stopped = torch.tensor([loaded is None], dtype=torch.uint8)
        dist.all_reduce(stopped, dist.ReduceOp.MAX)
        if stopped.item():
            raise Cancelled
        return loaded
