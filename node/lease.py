"""One encode per cluster: who may encode a missing key, and until when. Pure.

The owner of a key grants one node a lease to encode it (Gray and Cheriton, "Leases", SOSP 1989). Others that want the
same features hear when they are expected and wait for that, or encode themselves where waiting costs more: a lease
saves work, and no answer depends on it. So it needs no agreement: two nodes that each believe to be the owner grant two
leases, and the key is encoded twice.

A lease ends when the features come, when its holder says that none will, when the holder's connection is lost or it no
longer answers those who wait (`lease_watch.py`), and at its time. There is no timer: who asks after that is granted the
next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ring import NodeId

# The holder says how long it expects to take. Twice that, and it may be late; more, and it is taken for lost.
LEASE_FACTOR = 2.0
LEASE_S_MIN = 0.05
LEASE_S_MAX = 30.0
LEASES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Granted:
    """Encode it: nobody else will for `lease_s`."""

    lease_s: float


@dataclass(frozen=True, slots=True)
class Leased:
    """Another node encodes it, and should be done in `expected_s`."""

    expected_s: float


@dataclass(frozen=True, slots=True)
class _Lease:
    holder: NodeId
    expected_at: float
    until: float


class Leases:
    """The leases that one node has granted."""

    def __init__(self, leases_max: int = LEASES_MAX) -> None:
        self._leases_max = leases_max
        self._leases: dict[bytes, _Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def claim(self, now: float, key: bytes, claimant: NodeId, encode_s: float) -> Granted | Leased:
        """`claimant` wants `key` and would take `encode_s` to make it."""
        if (leased := self.held(now, key)) is not None and self._leases[key].holder != claimant:
            return leased
        lease_s = min(max(LEASE_FACTOR * encode_s, LEASE_S_MIN), LEASE_S_MAX)
        self._leases.pop(key, None)
        if len(self._leases) >= self._leases_max and not self._make_room(now):
            return Granted(0.0)  # nothing is remembered of it: at worst the key is encoded twice
        self._leases[key] = _Lease(claimant, now + min(encode_s, lease_s), now + lease_s)
        return Granted(lease_s)

    def held(self, now: float, key: bytes) -> Leased | None:
        """Whether somebody encodes `key`, and when it should be done.

        Of a holder that is late by x, expect x more: the longer it has been silent, the longer it will be.
        """
        lease = self._leases.get(key)
        if lease is None or now >= lease.until:
            return None
        return Leased(min(abs(lease.expected_at - now), lease.until - now))

    def holder(self, key: bytes) -> NodeId | None:
        """Who has the lease to make `key`."""
        lease = self._leases.get(key)
        return None if lease is None else lease.holder

    def made(self, key: bytes) -> bool:
        """The features of `key` are there; whether anybody had a lease to make them."""
        return self._leases.pop(key, None) is not None

    def release(self, key: bytes, holder: NodeId) -> bool:
        """`holder` will not make `key` after all; whether its lease was the one that stood."""
        if (lease := self._leases.get(key)) is None or lease.holder != holder:
            return False
        del self._leases[key]
        return True

    def gone(self, holder: NodeId) -> list[bytes]:
        """`holder` is not reached any more: the keys that nobody encodes now."""
        freed = [key for key, lease in self._leases.items() if lease.holder == holder]
        for key in freed:
            del self._leases[key]
        return freed

    def _make_room(self, now: float) -> bool:
        """Forget what has ended."""
        for key in [key for key, lease in self._leases.items() if now >= lease.until]:
            del self._leases[key]
        return len(self._leases) < self._leases_max
