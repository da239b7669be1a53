"""The models that live in a group, as their owner sees them. What takes time is Work; `finish` runs it to its end."""

import itertools
import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

from torch import Tensor

from ...dit.cache import CachePlan, Key, Passes
from ...errors import GroupError
from ...geometry import SPACE
from ...lora.patch import WeightPatch
from ...sampling import Given, SkipLayers
from .. import protocol
from ..protocol import Event, FramesDecoded, LoadDiT, Loaded, LoadVAE, SplitChosen, StripDecoded
from ..spmd.vae import plan_strips
from .group import Group
from .manager import GroupManager
from .work import Work, finish

__all__ = ["RemoteDiT", "RemoteModel", "RemoteText", "RemoteVAE", "TextRows", "Work", "finish", "join_passes"]

log = logging.getLogger(__name__)

_numbers = itertools.count(1)
_warned: set[str] = set()

Result = TypeVar("Result")


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

    Attributes:
        request: loads it.
        loads: how often it was loaded.
        told: the answer of each rank to that; empty while it is not loaded.
    """

    def __init__(self, manager: GroupManager, request: LoadDiT | LoadVAE):
        self.manager, self.request, self.name = manager, request, request.name
        self.loads = 0
        self.told: list[Loaded] = []
        self._group: Group | None = None
        manager.requests[self.name] = request
        weakref.finalize(self, _drop, manager, self.name)

    @property
    def loaded(self) -> bool:
        return self._group is not None and self._group is self.manager.group

    @property
    def nbytes(self) -> int:
        """Bytes of its weights on rank 0; 0 while it is not loaded."""
        return self.told[0].nbytes if self.told else 0

    def load(self) -> Work[Group]:
        """The group, with the model in it."""
        group = self.manager.use()
        self.manager.release_dropped()
        if group is not self._group:
            self._group = None
            self.manager.bring_files()
            answers = yield from group.stream(self.request)
            self.told = [answer.result for answer in answers]
            self._group = group
            self.loads += 1
            self._start_afresh()
        return group

    def unload(self) -> None:
        """Give the ranks' memory back; the next use loads again."""
        try:
            if self._group is not None and self.loaded:
                self._group.run(protocol.Unload([self.name]))
        except GroupError:
            log.exception("The group failed as a model was unloaded")  # and the memory went with it
        finally:
            self._group, self.told = None, []

    def _start_afresh(self) -> None:
        """Forget what the ranks knew before they loaded."""


class RemoteDiT(RemoteModel):
    """An AsymmDiT over all ranks.

    Attributes:
        degrees: cfg and Ulysses degree, 0 for the best.
        seconds: that each rank computed for the last run or forward pass.
        patched: the key of the patches that the ranks have; None where they have none.
    """

    def __init__(self, manager: GroupManager, request: LoadDiT, degrees: tuple[int, int] = (0, 0)):
        super().__init__(manager, request)
        self.degrees = degrees
        self.seconds: list[float] = []
        self.patched: Any = None
        self._wants: Any = None  # the key of the patches that it is to have
        self._known: set[int] = set()  # texts, by number
        self._dead: list[int] = []

    def _start_afresh(self) -> None:
        self.patched = None
        self._known.clear()
        self._dead.clear()

    @property
    def attention(self) -> str:
        """What computes attention in the ranks, in words; empty while it is not loaded."""
        return ", ".join(dict.fromkeys(told.attention for told in self.told))

    def text(self, features: Tensor, mask: Tensor) -> RemoteText:
        """A text for `sample` and `forward`. The ranks forget it when it is no longer referred to."""
        text = RemoteText(features, mask)
        weakref.finalize(text, self._dead.append, text.number)
        return text

    def patch(self, key: Any, patches: Mapping[str, Sequence[WeightPatch]]) -> Work[None]:
        """Put patches on the weights, by parameter, in place of earlier ones.

        key: tells patches apart; None stands for none. Nothing is done where the ranks have these patches already.
        """
        group = yield from self.load()
        if key != self.patched:
            self._known.clear()  # a patch can change what a prompt becomes
            self.patched = object()  # a key that nobody has, in case this is cancelled or refused halfway
            yield from group.stream(protocol.PatchWeights(self.name, patches))
            self.patched = key
        self._wants = key

    def sample(
        self,
        noise: Tensor,
        sigmas: Sequence[float],
        cfg: Sequence[float],
        positive: TextRows,
        negative: TextRows,
        cache: CachePlan | None = None,
        given: Given | None = None,
        skip: SkipLayers | None = None,
    ) -> Work[Tensor]:
        """A whole run, see Sample. Events: StepDone of all ranks; with a cache, PassesComputed, for `join_passes`."""
        group = yield from self._load_patched()
        prompts = {"positive": _rows(positive), "negative": _rows(negative), **self._texts([*positive, *negative])}
        levels = {"sigmas": list(sigmas), "cfg": list(cfg), "degrees": self.degrees, "cache": cache}
        guidance = {"given": given, "skip": skip}
        request = protocol.Sample(name=self.name, noise=noise, **levels, **guidance, **prompts)
        return (yield from self._denoise(group, request))

    def forward(
        self,
        z: Tensor,
        sigma: Tensor,
        rows: TextRows,
        cache: CachePlan | None = None,
        keys: Sequence[Key] = (),
        level: float | None = None,
        skip: tuple[int, ...] = (),
    ) -> Work[Tensor]:
        """One forward pass, see Forward. A run with a cache ends with `forget_run`.

        level: of the step; by default the highest in sigma.
        """
        group = yield from self._load_patched()
        prompts = {"rows": _rows(rows), **self._texts(rows)}
        levels = {"sigma": sigma.tolist(), "degrees": self.degrees, "cache": cache, "keys": list(keys)}
        levels |= {"level": float(sigma.max()) if level is None else level, "skip": skip}
        return (yield from self._denoise(group, protocol.Forward(name=self.name, z=z, **levels, **prompts)))

    def forget_run(self) -> Passes:
        """Free what the ranks kept for the forward passes of a run. Returns which of them a cache computed."""
        if self._group is None or not self.loaded:
            return {}
        return join_passes(self._group.run(protocol.ForgetRun(self.name)))

    def _load_patched(self) -> Work[Group]:
        """The group, with the weights as they were patched last."""
        if self._wants is not None and not self.loaded:
            raise GroupError("The ranks that had the patched weights (a LoRA) have ended. Queue the prompt again.")
        return (yield from self.load())

    def _denoise(self, group: Group, request: protocol.Request[Tensor | None]) -> Work[Tensor]:
        answers = yield from _warning(group.stream(request))
        self.seconds = [answer.seconds for answer in answers]
        result = answers[0].result
        assert result is not None  # rank 0 always has it
        return result

    def _texts(self, rows: TextRows) -> dict[str, Any]:
        """The texts that the ranks must be sent, and the numbers of those that they can forget."""
        new = {text.number: text for text, _ in rows if text.number not in self._known}
        dead = [self._dead.pop() for _ in range(len(self._dead))]
        self._known = (self._known | new.keys()) - set(dead)
        return {"texts": {number: (text.features, text.mask) for number, text in new.items()}, "forget": dead}


class RemoteVAE(RemoteModel):
    """An AsymmVAE over all ranks: each has the whole of the weights and a strip of the picture."""

    def decode(self, z: Tensor, as_bytes: bool = False) -> Work[None]:
        """VAE latents (B, 12, T, h, w) -> frames, about -1 to 1 or, as bytes, uint8 from 0 to 255: in FramesDecoded
        events."""
        group = yield from self.load()
        height, width = z.shape[3:]
        plan = plan_strips(height, width, group.size)
        arrived: dict[int, dict[int, Tensor]] = {}  # strips by chunk and rank
        with closing(group.stream(protocol.Decode(self.name, z, as_bytes))) as work:
            for event in work:
                yield event
                if event is None or not isinstance(told := event.payload, StripDecoded):
                    continue
                strips = arrived.setdefault(told.first, {})
                strips[event.rank] = told.strip
                if len(strips) == plan.ranks:
                    frames = plan.join(arrived.pop(told.first))
                    yield Event(event.rank, FramesDecoded(told.done, told.total, frames))

    def encode(self, video: Tensor) -> Work[Tensor]:
        """Frames (B, 3, F, H, W) in -1 to 1 -> mean latents (B, 12, T, h, w), on the CPU."""
        group = yield from self.load()
        answers = yield from group.stream(protocol.Encode(self.name, video))
        plan = plan_strips(video.shape[3] // SPACE, video.shape[4] // SPACE, group.size)
        return plan.join({rank: answer.result for rank, answer in enumerate(answers) if answer.result is not None})


def _warning(work: Work[Result]) -> Work[Result]:
    """The same work. What its split is warned of is logged, once."""
    with closing(work):
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            told = event and event.payload
            if isinstance(told, SplitChosen) and told.warning and told.warning not in _warned:
                _warned.add(told.warning)
                log.warning("%s", told.warning)
            yield event


def _drop(manager: GroupManager, name: str) -> None:
    """Nobody refers to a model any more."""
    manager.requests.pop(name, None)
    manager.dropped.append(name)


def _rows(rows: TextRows) -> protocol.Rows:
    return [(text.number, row) for text, row in rows]


def join_passes(told: Iterable[Passes]) -> Passes:
    """The passes of a run, joined from what the ranks told.

    Where several ranks made a pass, the first of them counts: its result was used.
    """
    joined: dict = {}
    for passes in told:
        joined = {**passes, **joined}
    return joined
