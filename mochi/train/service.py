"""The service of a rank that trains: the trainer of the command line, followed over the channel of a group."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from ..parallel.protocol import Progress
from ..parallel.worker.loop import Context
from .job import Looked, Stepped, TrainJob
from .requests import LookTaken, Noted, Preparing, StepTaken, StillBusy, TrainLora

WORD = 0.25
"""Seconds between two words on how far something is."""

SIGN = 10.0
"""Seconds without a word after which a rank says that it is at work."""

LONGEST = 3600.0
"""Seconds without a word after which it says so no more, so that the timeout counts. Reading a model from a slow disk
and a step over long clips can take longer than any timeout."""


class Trainer:
    """Answers TrainLora. See Group and Context."""

    def __init__(self, context: Context):
        self._context = context

    def handle(self, request: TrainLora) -> str:
        job, device = request.job, str(self._context.device)
        job = replace(job, placement=replace(job.placement, device=device))
        # A worker handles requests without gradients.
        with torch.inference_mode(False), torch.enable_grad(), Teller(self._context).at_work() as teller:
            return self._train(job, teller)

    def _train(self, job: TrainJob, teller: "Teller") -> str:
        from .ranks import Ranks
        from .trainer import train  # imports transformers, which takes seconds

        return str(train(job, Ranks.join(job.placement.device, job.placement.ulysses), teller))


class Teller:
    """A Watcher that tells the owner of a group. A cancel of the request ends the run."""

    def __init__(self, context: Context):
        self._context, self._lock, self._over = context, threading.Lock(), threading.Event()
        self._heard = time.monotonic()  # when it last told something of the run
        self._at, self._what = 0.0, ""  # when it last told how far something is, and what

    def said(self, text: str) -> None:
        self._tell(Noted(text))

    def preparing(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what or done == total or now - self._at >= WORD:
            self._at, self._what = now, what
            self._tell(Preparing(what, done, total))

    def stepped(self, step: Stepped) -> None:
        self._tell(StepTaken(step))

    def looked(self, look: Looked) -> None:
        self._tell(LookTaken(look))

    def cancelled(self) -> bool:
        """As this rank sees it: another may see it a moment later."""
        return self._context.asked_to_cancel()

    @contextmanager
    def at_work(self) -> Iterator["Teller"]:
        """Inside, tell now and then that the rank is at work, where nothing else is told."""
        thread = threading.Thread(target=self._give_signs, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _tell(self, told: Progress) -> None:
        self._heard = time.monotonic()
        with self._lock:
            self._context.emit(told)

    def _give_signs(self) -> None:
        while not self._over.wait(SIGN):
            silent = time.monotonic() - self._heard
            if SIGN <= silent < LONGEST:
                with self._lock:
                    self._context.emit(StillBusy(round(silent)))
