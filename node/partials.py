"""The beginnings of payloads whose transfer broke, so that it can go on where it stopped, at another holder too. Pure.

A payload begins with the checksum of all of it (`protocol/payload.py`). So who asks again tells how much it has of the
one with that checksum, and a holder of the very same sends the rest. Who holds another, or does not know of this, sends
all of what it has.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from ..protocol.connection import BLOB_BYTES_MAX
from ..protocol.frames import Buffer
from ..protocol.messages import Begun
from ..protocol.payload import SAME_BYTES

# Less comes again as soon as it is asked for: 5 ms at 100 Mbit/s.
PARTIAL_BYTES_MIN = 64 * 1024
PARTIALS_BYTES_MAX = 64 * 1024 * 1024
PARTIALS_MEMORY_SHARE = 1 / 8
# Who wanted it has asked again by then.
PARTIAL_S = 60.0


@dataclass(frozen=True, slots=True)
class _Partial:
    data: bytes
    since: float


class Partials:
    """What has come of payloads, by key; bounded, the oldest go first."""

    def __init__(self, bytes_max: int = PARTIALS_BYTES_MAX) -> None:
        self.nbytes = 0
        self._bytes_max = bytes_max
        self._partials: OrderedDict[bytes, _Partial] = OrderedDict()

    @classmethod
    def beside(cls, memory_bytes: int) -> Partials:
        """As many bytes as a node may spend on them that keeps `memory_bytes` of features."""
        return cls(min(PARTIALS_BYTES_MAX, int(memory_bytes * PARTIALS_MEMORY_SHARE)))

    def __len__(self) -> int:
        return len(self._partials)

    def keep(self, now: float, key: bytes, start: int, came: Buffer) -> None:
        """A transfer of `key`, which began at byte `start`, broke after `came`. Keeps a copy."""
        held = self._partials.get(key)
        before = held.data[:start] if held is not None else b""
        size = start + len(came)
        if len(before) < start or not PARTIAL_BYTES_MIN <= size <= self._bytes_max:
            return
        if held is not None and start and size <= len(held.data):
            return
        self.forget(key)
        self._partials[key] = _Partial(b"".join((before, came)), now)
        self.nbytes += size
        self._bound(now)

    def begun(self, now: float, key: bytes) -> Begun | None:
        """What to tell a holder of what there is of `key`."""
        self._bound(now)
        held = self._partials.get(key)
        return Begun(len(held.data), held.data[:SAME_BYTES]) if held is not None else None

    def whole(self, key: bytes, start: int, rest: Buffer) -> Buffer | None:
        """The bytes of `key`, of which a holder has sent what follows `start`; None when it cannot have been told that.

        They are not checked: what there was may be another's.
        """
        if not start:
            return rest
        held = self._partials.get(key)
        if held is None or len(held.data) < start or start + len(rest) > BLOB_BYTES_MAX:
            return None
        return b"".join((memoryview(held.data)[:start], rest))

    def forget(self, key: bytes) -> None:
        """It is here whole, or was not the beginning of anything."""
        if (held := self._partials.pop(key, None)) is not None:
            self.nbytes -= len(held.data)

    def _bound(self, now: float) -> None:
        while self._partials:
            oldest, held = next(iter(self._partials.items()))
            if self.nbytes <= self._bytes_max and now - held.since <= PARTIAL_S:
                return
            self.forget(oldest)

    def check(self) -> None:
        """Assert that the bookkeeping agrees with what is held."""
        assert self.nbytes == sum(len(held.data) for held in self._partials.values()) <= self._bytes_max
