"""The network interface by which the machines of a cluster reach each other."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping

from ..errors import MochiError

VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
"""The environment variables by which NCCL and gloo, the libraries of collectives, are told an interface."""

SIOCGIFADDR = 0x8915  # Linux: get the IPv4 address of an interface


def interface_of(ip: str) -> str:
    """The interface of this machine that has an address, such as `eth0`. Raises MochiError where none has."""
    found = {_address(name): name for _, name in socket.if_nameindex()}
    if ip not in found:
        raise MochiError(
            f"no network interface of machine {socket.gethostname()} has the address {ip}, by which Ray knows it. Name "
            "one that all machines have in the settings, or set NCCL_SOCKET_IFNAME where `ray start` is called."
        )
    return found[ip]


def socket_variables(ip: str, chosen: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that lead collectives over the interface with that address.

    chosen: the name of another interface, which goes first; then those that a person has set on this machine, for both
    libraries or one of them.
    """
    if chosen:
        if chosen not in {name for _, name in socket.if_nameindex()}:
            raise MochiError(f"machine {socket.gethostname()} has no network interface {chosen!r}")
        return dict.fromkeys(VARIABLES, chosen)
    of_person = {name: inherited[name] for name in VARIABLES if inherited.get(name)}
    if len(of_person) == len(VARIABLES):
        return of_person
    return {**dict.fromkeys(VARIABLES, interface_of(ip)), **of_person}


def listen(interface: str, ip: str) -> socket.socket:
    """A socket that listens at the address of an interface, and nowhere else, at any free port."""
    address = _address(interface) or ip
    listener = socket.create_server((address, 0))
    os.set_inheritable(listener.fileno(), False)
    return listener


def _address(interface: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            packed = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:  # it has none
            return None
    return socket.inet_ntoa(packed[20:24])
