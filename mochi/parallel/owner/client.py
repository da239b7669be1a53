"""The models that live in a group, as their owner sees them.

What takes time is a generator: it yields the ranks' events as they come (None in between, see Group.stream), returns
its result, and is cancelled by closing it. `finish` runs one to its end.
"""

from __future__ import annotations

import itertools
import logging
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...dit.backends import SDPA
from ...dit.cache import CachePlan, Key, Passes
from ...errors import GroupError
from ...geometry import SPACE
from ...lora.patch import WeightPatch, flatten_patches
from ..spmd.vae import plan_strips
from ..worker.prompts import Rows
from .group import Event, Group
from .manager import GroupManager

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Work = Generator[Event | None, None, Result]

_numbers = itertools.count(1)


def finish(
    work: Work[Result],
    on_event: Callable[[Event], None] | None = None,
    check: Callable[[], None] | None = None,
) -> Result:
    """Run to the end. on_event hears what the ranks tell; check is called all the while, and what either raises
    cancels the ranks."""
    with closing(work):
        while True:
            if check is not None:
                check()
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            if event is not None and on_event is not None:
                on_event(event)


class RemoteText:
    """A text for the ranks: T5 features (b, L, text width) and mask (b, L). Sent once to each group that uses it."""

    def __init__(self, features: Tensor, mask: Tensor):
        self.number = next(_numbers)
        self.features, self.mask = features.cpu(), mask.cpu()

    def __len__(self) -> int:
        return len(self.features)


TextRows = Sequence[tuple[RemoteText, int]]
"""For each sample of a batch: a text, and the row in it."""


class RemoteModel:
    """A model that is loaded into whatever group `manager` has, when it is used and not there yet.

    loads: how often it was loaded. bytes: of its weights on rank 0, while it is loaded; told: what each rank said then.
    """

    def __init__(self, manager: GroupManager, loader: str, **arguments: Any):
        self.name = f"model {next(_numbers)}"
        self.manager, self.loads, self.bytes = manager, 0, 0
        self.told: list[dict[str, Any]] = []
        self._loader, self._arguments = loader, arguments
        self._group: Group | None = None
        weakref.finalize(self, manager.dropped.append, self.name)

    @property
    def loaded(self) -> bool:
        return self._group is not None and self._group is self.manager.group

    def load(self) -> Work[Group]:
        """The group, with the model in it."""
        group = self.manager.use()
        self.manager.release_dropped()
        if group is not self._group:
            self._group = None
            answers = yield from group.stream(self._loader, doing="loading", name=self.name, **self._arguments)
            self.told = [answer["result"] for answer in answers]
            self._group, self.bytes = group, self.told[0]["bytes"]
            self.loads += 1
            self._start_afresh()
        return group

    def unload(self) -> None:
        """Give the ranks' memory back; the next use loads again."""
        try:
            if self.loaded:
                self._group.run("unload", names=[self.name])
        except GroupError:
            log.exception("The group failed as a model was unloaded")  # and the memory went with it
        finally:
            self._group, self.bytes, self.told = None, 0, []

    def _start_afresh(self) -> None:
        """Forget what the ranks knew before they loaded."""


class RemoteDiT(RemoteModel):
    """An AsymmDiT over all ranks. degrees: guidance and Ulysses, 0 for the best. attention: of ATTENTIONS. compiled:
    whether its blocks are. See RankWeights for the others.
    """

    def __init__(
        self,
        manager: GroupManager,
        path: Path,
        dtype: torch.dtype | None,
        compute_dtype: torch.dtype,
        weights: str = "replicated",
        degrees: tuple[int, int] = (0, 0),
        fast: bool = False,
        attention: str = SDPA,
        compiled: bool = False,
    ):
        precision = {"dtype": dtype, "compute_dtype": compute_dtype, "fast": fast}
        ways = {"attention": attention, "compiled": compiled}
        super().__init__(manager, "load_dit", path=path, weights=weights, **precision, **ways)
        self.degrees, self.sharding = degrees, weights
        self.seconds: list[float] = []  # that each rank computed for the last sample or forward
        self._wants: Any = None  # which patches it is to have
        self.patched: Any = None  # which patches the ranks have; None: those of the file, that is, none
        self._known: set[int] = set()
        self._dead: list[int] = []

    def _start_afresh(self) -> None:
        self.patched = None
        self._known.clear()
        self._dead.clear()

    @property
    def attention(self) -> str:
        """What computes attention in the ranks, in words; empty while it is not loaded."""
        return ", ".join(dict.fromkeys(told["attention"] for told in self.told))

    def text(self, features: Tensor, mask: Tensor) -> RemoteText:
        """A text for `sample` and `forward`. The ranks forget it when it is no longer referred to."""
        text = RemoteText(features, mask)
        weakref.finalize(text, self._dead.append, text.number)
        return text

    def patch(self, key: Any, patches: Mapping[str, Sequence[WeightPatch]]) -> Work[None]:
        """Have the weights patched (see RankWeights), in place of earlier patches. key: tells patches apart, None
        stands for none; nothing is done where the ranks have those already."""
        group = yield from self.load()
        if key != self.patched:
            self._known.clear()  # a patch can change what a prompt becomes
            self.patched = object()  # nobody's, should this be cancelled or refused halfway
            yield from group.stream("patch", doing="patching weights", name=self.name, patches=flatten_patches(patches))
            self.patched = key
        self._wants = key

    def _denoise(self, method: str, doing: str, used: TextRows, **arguments: Any) -> Work[Tensor]:
        """A request that needs the weights as they were patched last, and these texts. Returns rank 0's result."""
        if self._wants is not None and not self.loaded:
            raise GroupError("The ranks that had the patched weights (a LoRA) have ended. Queue the prompt again.")
        group = yield from self.load()
        arguments |= {"name": self.name, "degrees": self.degrees, **self._texts(used)}
        answers = yield from group.stream(method, doing=doing, **arguments)
        self.seconds = [answer["seconds"] for answer in answers]
        return answers[0]["result"]

    def sample(
        self,
        noise: Tensor,
        sigmas: Sequence[float],
        cfg: Sequence[float],
        positive: TextRows,
        negative: TextRows,
        cache: CachePlan | None = None,
    ) -> Work[Tensor]:
        """A whole run: noise (B, 12, T, h, w) at level sigmas[0], a guidance scale for each step, a prompt for each
        sample -> DiT latents, float32, on the CPU. Rank 0's events have step, steps, latents, estimate (see Denoised);
        with a cache, the last of each rank has `passes`, for `join_passes`.
        """
        levels = {"noise": noise, "sigmas": list(sigmas), "cfg": list(cfg), "cache": _plain(cache)}
        prompts = {"positive": _rows(positive), "negative": _rows(negative)}
        return (yield from self._denoise("sample", "sampling", [*positive, *negative], **levels, **prompts))

    def forward(
        self, z: Tensor, sigma: Tensor, rows: TextRows, cache: CachePlan | None = None, keys: Sequence[Key] = ()
    ) -> Work[Tensor]:
        """One forward pass: z (B, 12, T, h, w) at sigma (B,), a prompt for each -> `z_0 - eps`, float32, on the CPU.

        cache: of the run, which ends with `forget_run`; with a key for each sample.
        """
        # Sigma as numbers: a tensor would cost a millisecond more.
        inputs = {"z": z, "sigma": sigma.tolist(), "cache": _plain(cache), "keys": list(keys)}
        return (yield from self._denoise("forward", "making a forward pass", rows, **inputs, rows=_rows(rows)))

    def forget_run(self) -> Passes:
        """Free what the ranks kept for the forward passes of a run. Returns which of them a cache computed."""
        if not self.loaded:
            return {}
        return join_passes(self._group.run("forget_run", name=self.name))

    def _texts(self, rows: TextRows) -> dict[str, Any]:
        """What the ranks must be sent of these texts, and what they can forget."""
        new = {text.number: text for text, _ in rows if text.number not in self._known}
        dead = [self._dead.pop() for _ in range(len(self._dead))]
        self._known = (self._known | new.keys()) - set(dead)
        return {"texts": {number: (text.features, text.mask) for number, text in new.items()}, "forget": dead}


class RemoteVAE(RemoteModel):
    """An AsymmVAE over all ranks: each has the whole of the weights and a strip of the picture."""

    def __init__(self, manager: GroupManager, decoder: Path | None, encoder: Path | None, dtype: torch.dtype):
        super().__init__(manager, "load_vae", decoder=decoder, encoder=encoder, dtype=dtype)

    def decode(self, z: Tensor, as_bytes: bool = False) -> Work[None]:
        """VAE latents (B, 12, T, h, w) -> frames (B, 3, F, H, W), about -1 to 1 or, as bytes, uint8 from 0 to 255, on
        the CPU: in Events whose payload has the next `frames`, and how many latent frames are `done`.
        """
        group = yield from self.load()
        plan = plan_strips(*z.shape[3:], group.size)
        arrived: dict[int, dict[int, Tensor]] = {}  # strips by chunk and rank
        request = {"name": self.name, "z": z, "as_bytes": as_bytes}
        with closing(group.stream("decode", doing="decoding", **request)) as work:
            for event in work:
                yield event
                if event is None or "strip" not in event.payload:
                    continue
                first, done = event.payload["first"], event.payload["done"]
                strips = arrived.setdefault(first, {})
                strips[event.rank] = event.payload["strip"]
                if len(strips) == plan.ranks:
                    yield Event(event.rank, {"frames": plan.join(arrived.pop(first)), "done": done})

    def encode(self, video: Tensor) -> Work[Tensor]:
        """Frames (B, 3, F, H, W) in -1 to 1 -> mean latents (B, 12, T, h, w), on the CPU."""
        group = yield from self.load()
        answers = yield from group.stream("encode", doing="encoding", name=self.name, video=video)
        plan = plan_strips(video.shape[3] // SPACE, video.shape[4] // SPACE, group.size)
        return plan.join({rank: answer["result"] for rank, answer in enumerate(answers)})


def _rows(rows: TextRows) -> Rows:
    return [(text.number, row) for text, row in rows]


def join_passes(told: Iterable[Passes]) -> Passes:
    """The passes of a run, as the ranks told of them, one after the other: those that several made count as the first
    of these did, whose result it was."""
    joined: dict = {}
    for passes in told:
        joined = {**passes, **joined}
    return joined


def _plain(cache: CachePlan | None) -> tuple | None:
    return None if cache is None else tuple(cache)
