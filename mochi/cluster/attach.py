"""Attaches this process to a Ray cluster that runs. None is ever started here."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import socket
import threading
from pathlib import Path
from types import ModuleType

from ..errors import MochiError
from .machines import Cluster, RayHasEnded

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
"""Our code, which goes to the machines as the runtime environment of Ray."""

AUTO = "auto"
"""The address that stands for the cluster of this machine."""

NOT_INSTALLED = (
    "Several machines need Ray, which is not installed here: pip install ray (the same version on every machine)."
)
HEAD_GONE = "100000000"
"""Seconds without the cluster's head after which Ray ends this process, which is ComfyUI's: never. By default 60."""

INLINE = str(64 * 2**20)
"""Bytes up to which results come from a worker directly. Larger ones come through the object store, by default those
from 100 kB on; and where a worker of which one came has died, Ray ends this process if its raylet is gone, too."""

REACH = 5.0  # seconds in which the head of a cluster answers

_lock = threading.Lock()
_attached: list[tuple[str, Cluster]] = []  # the address as it was asked for, and what it stands for: one at most


def import_ray() -> ModuleType:
    """Ray. Raises MochiError where it is not installed."""
    # Else it prints a paragraph on standard output for each process that dies, the paths of videos among them.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without GPUs of its own may look at all
    # Else whatever asks Ray after the cluster is gone starts one in this process.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", HEAD_GONE)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MochiError(NOT_INSTALLED) from error


def check_installed() -> None:
    """Raise MochiError where Ray is not installed, without importing it."""
    if importlib.util.find_spec("ray") is None:
        raise MochiError(NOT_INSTALLED)


def check_address(address: str) -> None:
    """Raise MochiError where that is no address of a cluster, before anything is asked."""
    if address == AUTO:
        return
    if "://" in address:
        raise MochiError(
            f"the cluster's address is {address!r}, but must be auto or HOST:PORT. This machine takes part in the "
            "cluster: run `ray start --address=HOST:6379` here, too."
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise MochiError(f"the cluster's address is {address!r}, but must be auto or HOST:PORT, such as 10.0.0.1:6379")


def attach(address: str = AUTO) -> Cluster:
    """The cluster of an address: "auto", that of this machine, or HOST:PORT of its head.

    Where Ray has ended on this machine since, and was started again, that is another one.

    Raises MochiError where Ray is not installed, no cluster runs there, or this machine takes no part in it.
    """
    check_address(address)
    ray = import_ray()
    with _lock:
        if ray.is_initialized() and (present := _present(ray, address)) is not None:
            return present
        _attached.clear()
        if address != AUTO:
            _check_reached(address)
        try:
            ray.init(
                address=address,
                runtime_env={
                    "py_modules": [str(PACKAGE)],
                    "excludes": ["__pycache__", "*.pyc"],
                    "env_vars": {"RAY_max_direct_call_object_size": INLINE},
                },
                log_to_driver=False,
                logging_level=logging.WARNING,
                configure_logging=False,
            )
        except ConnectionError as error:
            raise MochiError(
                f"No Ray cluster runs {'here' if address == AUTO else f'at {address}'}: {_first_line(error)}. "
                "Start one with `ray start --head` on one machine, and `ray start --address=HOST:6379` on each other "
                "one; this machine must be one of them."
            ) from error
        except (RuntimeError, ValueError, OSError) as error:  # other versions of Ray or Python, for one
            raise MochiError(f"The Ray cluster at {address} cannot be used from here: {error}") from error
        _attached.append((address, cluster := Cluster(ray)))
        return cluster


def _present(ray: ModuleType, address: str) -> Cluster | None:
    """The cluster that this process is attached to already, if it is the one; None where it has ended, and is left."""
    if not _attached:
        raise MochiError(
            "Another program's code has attached this process to Ray, so ours cannot go to the machines with it. Take "
            "out the other pack that uses Ray, or use `python -m mochi generate --ray`, a process of its own."
        )
    known, cluster = _attached[0]
    try:
        cluster.check_there()
    except RayHasEnded:
        ray.shutdown()
        return None
    if address not in (known, AUTO, ray.get_runtime_context().gcs_address):
        raise MochiError(
            f"This process is attached to the cluster at {known}, and cannot use the one at {address} too."
        )
    return cluster


def detach() -> None:
    """Leave the cluster, which goes on. All that this process has started there ends."""
    with _lock:
        if _attached:
            _attached.clear()
            import_ray().shutdown()


def _check_reached(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), REACH).close()
    except (OSError, OverflowError) as error:
        raise MochiError(
            f"No Ray cluster answers at {address} ({error}). Start one there: ray start --head --port={port}; and join "
            f"it here: ray start --address={address}"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
