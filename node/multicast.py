"""Does multicast work at an address of this machine, and how is a socket kept to one interface?"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import Sequence

from .interfaces import InterfaceAddress

MDNS = ("224.0.0.251", 5353)
ECHO_TIMEOUT_S = 0.5

_IP_MULTICAST_ALL = 49  # linux/in.h; the socket module does not name it


def keep_to(interface: str, mdns_socket: socket.socket) -> None:
    """Have an mDNS socket receive from one interface only, and send to it only.

    zeroconf's receiving socket is bound to no address. The kernel gives such a socket what arrives on any interface
    whose group any program has joined, and zeroconf answers from it, by unicast, to where the question came from: a
    loopback node would speak on the LAN.
    """
    if not hasattr(socket, "SO_BINDTODEVICE"):
        return  # not Linux: other kernels give a socket only the groups that it joined itself
    try:
        mdns_socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    except PermissionError:  # before Linux 5.7 for root only; the next best leaves unicast questions open
        mdns_socket.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)


async def echo(place: InterfaceAddress) -> str | None:
    """None if an mDNS question sent at this address is heard there within 0.5 s; else why not. Never raises.

    It asks for a name that nobody has, so that only this machine's own sockets, routes and firewall are in the test.
    """
    question = _question([secrets.token_hex(8), "_edgecache-echo", "local"])
    try:
        with _mdns_socket() as ear, _mdns_socket() as mouth:
            keep_to(place.interface, ear)
            ear.bind(("", MDNS[1]))
            member = socket.inet_aton(MDNS[0]) + socket.inet_aton(place.address)
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            mouth.bind((place.address, MDNS[1]))
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(place.address))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(ECHO_TIMEOUT_S):
                mouth.sendto(question, MDNS)  # a datagram does not block, and uvloop has no sock_sendto
                while await loop.sock_recv(ear, 9000) != question:
                    pass
    except TimeoutError:
        return "an mDNS question was sent and not heard"
    except OSError as error:
        return str(error)
    return None


def _mdns_socket() -> socket.socket:
    """A socket that shares port 5353 with every other mDNS program of this machine."""
    mdns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mdns.setblocking(False)
    mdns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        mdns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return mdns


def _question(labels: Sequence[str]) -> bytes:
    """An mDNS question for the PTR records of a name."""
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    return struct.pack(">6H", 0, 0, 1, 0, 0, 0) + name + struct.pack(">2H", 12, 1)
