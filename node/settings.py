"""What a node is given: its settings, and what an encoder must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..protocol import messages
from .cost import ONLY_TIME, Prices
from .eviction.policies import POLICY_USUAL
from .lookup import Encoder

if TYPE_CHECKING:
    from ..protocol.keys import EncoderIdentity
    from .link import Address


class _Described(Protocol):
    @property
    def identity(self) -> EncoderIdentity: ...

    @property
    def shape(self) -> tuple[int, int]: ...


class LocalEncoder(Encoder, Protocol):
    """What a node encodes with: `edgecache.encoder.worker.EncoderWorker` is one, a simulation gives another."""

    @property
    def known(self) -> _Described | None:
        """What it is, as far as that is known without loading it."""

    async def start(self) -> None:
        """Begin to load; returns at once."""

    async def described(self) -> _Described:
        """What it is; EncoderUnavailable if that cannot be told."""

    async def close(self) -> None:
        """End it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a node is told once."""

    name: str
    cluster: str
    copies: int
    memory_bytes: int
    peer_listen: Address
    http: Address
    """Where its HTTP face listens; port 0: nowhere that others reach."""
    shown_host: str
    """Its own address in what it tells of itself, where it listens on every interface."""
    seeds: tuple[Address, ...] = ()
    eviction: str = POLICY_USUAL
    """Which of `eviction.policies.POLICIES` says what goes when memory is full."""
    is_secured: bool = False
    """Whether `network` lets in only who has the cluster key."""
    is_cloud: bool = False
    """Whether it is a cloud node: it answers who dials it, and has no members."""
    prices: Prices = ONLY_TIME
    """What energy is worth to it."""
    abilities: int = messages.ZSTD | messages.CUT | messages.DELTA
    """What it tells others that it knows of the protocol."""
