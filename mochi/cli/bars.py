"""The progress of one video on a terminal: a bar for sampling, then one for decoding."""

from types import TracebackType

from tqdm import tqdm

from ..batch.requests import FramesWritten
from ..parallel.protocol import Counted


class Bars:
    """A context manager that has one bar at a time. title: of the one for sampling."""

    def __init__(self, title: str):
        self._title = title
        self._bar: tqdm | None = None
        self._kind: type[Counted] | None = None

    def show(self, told: Counted) -> None:
        """The next bar, if this is the first that is told of its kind, and how far it is."""
        if self._bar is None or type(told) is not self._kind:
            self._close()
            title = "decoding" if isinstance(told, FramesWritten) else self._title
            self._bar, self._kind = tqdm(total=told.total, desc=title, unit=told.unit), type(told)
        self._bar.update(told.done - self._bar.n)

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
