"""What the tests of the group share."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mochi.config import TINY_WEIGHTS
from mochi.parallel.owner.client import RemoteDiT, RemoteVAE, finish
from mochi.parallel.owner.group import Group
from mochi.parallel.owner.manager import GroupManager
from mochi.parallel.protocol import Event, FramesDecoded, LoadDiT, LoadVAE

FAULTY = str(Path(__file__).with_name("faulty_service.py"))


def gone(pids: Iterable[int]) -> bool:
    """Whether none of these processes runs."""
    return not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie has ended; nobody has asked how, so far.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.05)


def listening_outside_loopback(pid: int) -> list[str]:
    """Local addresses, as /proc writes them, at which a process listens to other machines."""
    own = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            own.add(os.readlink(descriptor))
        except OSError:
            continue  # closed meanwhile
    found = []
    for family, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            _, address, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in own and address.partition(":")[0] != loopback:
                found.append(address)
    return found


def ask(group: Group, method: str, **arguments: Any) -> list[Any]:
    """Have a method of a test's own service called on all ranks. Returns the result of each."""
    return group.run((method, arguments), doing=method)


def float32_dit(manager: GroupManager, path: Path, sharding: str = "replicated", **ways: Any) -> RemoteDiT:
    """The denoiser of a file, in float32."""
    return RemoteDiT(manager, LoadDiT(path, torch.float32, torch.float32, sharding, **ways))


def tiny_dit(manager: GroupManager, sharding: str = "replicated") -> RemoteDiT:
    """The built-in denoiser."""
    return float32_dit(manager, TINY_WEIGHTS / "dit.safetensors", sharding)


def tiny_vae(manager: GroupManager) -> RemoteVAE:
    """The built-in VAE."""
    decoder, encoder = TINY_WEIGHTS / "decoder.safetensors", TINY_WEIGHTS / "encoder.safetensors"
    return RemoteVAE(manager, LoadVAE(decoder, encoder, torch.float32))


def frames_of(vae: RemoteVAE, z: Tensor) -> list[Tensor]:
    """What the ranks decode, as it comes."""
    frames = []

    def keep(event: Event) -> None:
        if isinstance(event.payload, FramesDecoded):
            frames.append(event.payload.frames)

    finish(vae.decode(z), keep)
    return frames
