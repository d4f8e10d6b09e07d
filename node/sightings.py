"""What is claimed of nodes on the network, and what a claim is worth: a handshake at most. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from ..protocol.errors import InvalidValue
from .interfaces import InterfaceAddress

# A flood of announcements costs at most this many handshakes a round. A LAN of 200 nodes on two interfaces fits.
SIGHTINGS_MAX = 512
# One string of a TXT record holds 255 bytes, of which the longest key and its `=` take 8.
TXT_VALUE_BYTES_MAX = 240
TXT_BYTES_MAX = 1024

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)
_PRIVATE = [IPv4Network(network) for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node says of itself. `id` and `boot` are 32 hexadecimal digits; `http_port` 0: no HTTP for others.

    InvalidValue for a name or cluster of more than 240 bytes of UTF-8, or with characters that do not print.
    """

    id: str
    boot: str
    name: str
    cluster: str
    protocol_version: int
    peer_port: int
    http_port: int

    def __post_init__(self) -> None:
        assert _ID.fullmatch(self.id), self.id
        assert _ID.fullmatch(self.boot), self.boot
        for what, value in (("node name", self.name), ("cluster name", self.cluster)):
            if not _is_name(value):
                raise InvalidValue(f"{what} {value[:80]!a}: at most {TXT_VALUE_BYTES_MAX} bytes that print")


@dataclass(frozen=True, slots=True)
class Sighting:
    """Somebody claims that a node can be dialled here."""

    id: str
    """As claimed; "" for a seed, of which only the address is known."""
    boot: str
    name: str
    address: tuple[str, int]
    """Host and port for peers. A loopback address means this machine only, and must not be passed on to others."""


class Discovery(Protocol):
    """What finds other nodes for a node."""

    async def start(self, me: Announcement, found: Callable[[Sighting], None]) -> None:
        """Begin, and return without waiting. `found` is called in this event loop.

        A node that is still heard is told again from time to time, at each of its addresses: a sighting of a member
        that is known and well must cost nothing.
        """

    async def stop(self) -> None:
        """Say goodbye, within a second. Never raises; harmless when repeated or before `start`."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One node's announcement as it was heard on one interface: well-formed, and not more than that."""

    id: str
    boot: str
    name: str
    cluster: str
    protocol_version: int
    address: tuple[str, int]
    http_port: int
    heard_on: InterfaceAddress


class Ignored(StrEnum):
    """Why an announcement earned nothing."""

    MALFORMED = "malformed"
    BAD_ADDRESS = "bad_address"
    OTHER_CLUSTER = "other_cluster"
    TOO_MANY = "too_many"


def read_claim(txt: bytes, port: int | None, addresses: Iterable[str], heard_on: InterfaceAddress) -> Claim | Ignored:
    """The claim that a service's records make, or why they make none. `addresses` are IPv4 and in the sender's order.

    The address must be one that a neighbour can have: on the interface's own network or a private one, so that no
    announcement has us dial the internet, and loopback only when heard on loopback.
    """
    values = _txt_values(txt)
    if values is None or port is None or not 0 < port < 65536:
        return Ignored.MALFORMED
    node, boot, name, cluster = (values.get(key, "") for key in ("id", "boot", "name", "cluster"))
    version, http = values.get("version", ""), values.get("http", "")
    if not (_ID.fullmatch(node) and _ID.fullmatch(boot) and _is_name(name) and _is_name(cluster)):
        return Ignored.MALFORMED
    if not (_NUMBER.fullmatch(version) and _NUMBER.fullmatch(http) and int(http) < 65536):
        return Ignored.MALFORMED
    for address in addresses:
        if _is_neighbour(IPv4Address(address), heard_on):
            return Claim(node, boot, name, cluster, int(version), (address, port), int(http), heard_on)
    return Ignored.BAD_ADDRESS


class Sightings:
    """Decides which claims are worth a handshake: each of our cluster once a round, and no more than `capacity`."""

    def __init__(self, me: Announcement, capacity: int = SIGHTINGS_MAX) -> None:
        self.ignored: Counter[Ignored] = Counter()
        self._me = me
        self._capacity = capacity
        self._told: set[Sighting] = set()  # asked for membership only, never walked: its order decides nothing
        self._overflowed = False

    def judge(self, claim: Claim | Ignored) -> Sighting | None:
        """The sighting to tell of; None if the claim is our own, was told in this round, or is ignored and counted.

        Our id with another boot id is told: that is how a cloned disk is found out.
        """
        if isinstance(claim, Ignored):
            self.ignored[claim] += 1
            return None
        if (claim.id, claim.boot) == (self._me.id, self._me.boot):
            return None
        if claim.cluster != self._me.cluster:
            self.ignored[Ignored.OTHER_CLUSTER] += 1
            return None
        sighting = Sighting(claim.id, claim.boot, claim.name, claim.address)
        if sighting in self._told:
            return None
        if len(self._told) >= self._capacity:
            self.ignored[Ignored.TOO_MANY] += 1
            self._overflowed = True
            return None
        self._told.add(sighting)
        return sighting

    def new_round(self) -> bool:
        """Begin a round in which everything may be told again; whether there was no room for all in the last one."""
        overflowed, self._overflowed = self._overflowed, False
        self._told.clear()
        return overflowed


def _txt_values(txt: bytes) -> dict[str, str] | None:
    """The `key=value` strings of a TXT record (RFC 6763, 6.4: the first of a key counts); None if it is not one."""
    if len(txt) > TXT_BYTES_MAX:
        return None
    values: dict[str, str] = {}
    while txt:
        text, txt = txt[1 : 1 + txt[0]], txt[1 + txt[0] :]
        try:
            key, _, value = text.decode().partition("=")
        except UnicodeDecodeError:
            return None
        values.setdefault(key.lower(), value)
    return values


def _is_name(value: str) -> bool:
    # What does not print could write lines of its own into logs and terminals.
    return len(value.encode("utf-8", "replace")) <= TXT_VALUE_BYTES_MAX and value.isprintable()


def _is_neighbour(address: IPv4Address, heard_on: InterfaceAddress) -> bool:
    network = heard_on.network
    if heard_on.is_loopback or address.is_loopback:
        return heard_on.is_loopback and address.is_loopback
    if address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    if address in network:
        return network.num_addresses <= 2 or address not in (network.network_address, network.broadcast_address)
    return any(address in private for private in _PRIVATE)
