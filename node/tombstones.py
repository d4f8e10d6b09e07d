"""What was forgotten lately, so that features already on their way cannot bring it back. Pure.

That is for what a `put` replaces on nodes that hold an older copy: it is over within seconds, and local. A removal from
the whole cluster is remembered for weeks and told to all (`removals.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..protocol.keys import FeatureKey

# A fill begins, encodes and lands within seconds; one that takes longer than this has failed its deadline long ago.
KEPT_S = 120.0
KEPT_MAX = 65_536


class Tombstones:
    """Names of forgotten keys (64 bytes) and images (32 bytes) with the time of it; bounded, the oldest go first."""

    def __init__(self) -> None:
        self._since: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._since)

    def add(self, name: bytes, now: float) -> None:
        """`name` is forgotten from `now` on."""
        self._since.pop(name, None)
        self._since[name] = now
        while len(self._since) > KEPT_MAX or next(iter(self._since.values())) < now - KEPT_S:
            self._since.popitem(last=False)

    def forbids(self, key: FeatureKey, started: float) -> bool:
        """Whether features of `key` whose making began at `started` were forgotten since."""
        if not self._since:
            return False
        return any(self._since.get(name, started - 1.0) >= started for name in (key.packed, key.digest))
