"""As much of torch.cuda as the code asks for, where no driver is."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from .ledger import Ledger

GIB = 1 << 30

noting: list[Ledger] = []
"""Where it is noted, the last one, what makes the host wait."""


def wait(what: str) -> None:
    """The host waits until the device has nothing left to do."""
    if noting:
        noting[-1].stop(what)


class Event:
    """A moment in the work of the device. Who waits for it while there is more to do does not let the device rest."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._given = 0

    def record(self, stream: Any = None) -> None:
        self._given = noting[-1].given if noting else 0

    def wait(self, stream: Any = None) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        if noting and noting[-1].given == self._given:
            wait("Event.synchronize")

    def elapsed_time(self, end: Any) -> float:
        return 0.0


class Stream:
    """A queue of work, always empty."""

    device, device_index, device_type, stream_id, cuda_stream = torch.device("cuda", 0), 0, 1, 0, 0

    def __init__(self, *args: Any, **kwargs: Any): ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        wait("Stream.synchronize")


@contextmanager
def _current(anything: Any) -> Iterator[None]:
    yield


_STREAM = Stream()
_CARD = SimpleNamespace(name="pretended H100", major=9, minor=0, total_memory=80 * GIB, multi_processor_count=132)
_REPLACED = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "_lazy_init": lambda: None,
    "device_count": lambda: 8,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "device": _current,
    "get_device_name": lambda device=None: _CARD.name,
    "get_device_capability": lambda device=None: (_CARD.major, _CARD.minor),
    "get_device_properties": lambda device=None: _CARD,
    "mem_get_info": lambda device=None: (_CARD.total_memory, _CARD.total_memory),
    "memory_allocated": lambda device=None: 0,
    "memory_reserved": lambda device=None: 0,
    "max_memory_allocated": lambda device=None: 0,
    "reset_peak_memory_stats": lambda device=None: None,
    "empty_cache": lambda: None,
    "synchronize": lambda device=None: wait("torch.cuda.synchronize"),
    "Event": Event,
    "Stream": Stream,
    "stream": _current,
    "current_stream": lambda device=None: _STREAM,
    "default_stream": lambda device=None: _STREAM,
    "set_stream": lambda stream: None,
}


def install() -> None:
    """Change torch for the rest of the process. The last two lines are private to torch; 2.11 and 2.14 have them."""
    for name, stand_in in _REPLACED.items():
        setattr(torch.cuda, name, stand_in)
    # A module that moves gets new parameters: the data of one cannot be exchanged for another device's.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is made on the CPU, then copied
