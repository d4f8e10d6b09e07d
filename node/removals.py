"""What was removed from the whole cluster, until everybody has very likely heard of it. Pure.

Who was cut off when features were removed, still has them; and a copy that was under way then may land later. So a
removal leaves a *tombstone*, which spreads as rumors do, and is handed to whoever comes back (`gossip.py`).

Which features a removal is about must not depend on clocks, nor on the order in which nodes hear things. Each removal
has a *stamp*, one over the highest that its node had heard of (Lamport, "Time, Clocks, and the Ordering of Events in a
Distributed System", CACM 1978), and each payload says in its header the highest stamp that its maker knew of for its
key or image when the making began: nearly always 0. A removal is about the payloads that did not know of it. So

- a payload whose making began before it goes, wherever it was then and whenever it arrives; one made in ignorance of it
  on the other side of a split goes too;
- one made after it stays, also on a node that hears of the removal only later.

Tombstones end by age, which is told in seconds: no two clocks need to agree. A device that was off for longer than that
trusts nothing that it held before (`remembered_removals.py`).
"""

from __future__ import annotations

import functools
import heapq
import math
import operator
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xxhash

from ..protocol.errors import InvalidValue
from ..protocol.payload import STAMP_MAX

if TYPE_CHECKING:
    from ..protocol.keys import FeatureKey
    from ..protocol.payload import Payload

KEPT_S = 30 * 24 * 3600.0
KEPT_MAX = 16_384  # 5 MB of them; where there are more, every node keeps those with the highest stamps
# Compared and exchanged in so many parts, by the first byte of the name.
PARTS = 64
# So many are told as rumors; of more at once who missed them hears in an exchange.
UNTOLD_MAX = 64
_FIRST_STAMP_MAX = 2**20
_STALE_MAX = 64  # of what was removed once more, so many older stamps may lie about


@dataclass(frozen=True, slots=True)
class Removal:
    """The last removal of a key (64 bytes) or an image (32 bytes: every key of it)."""

    name: bytes
    stamp: int
    since: float

    def digest(self) -> int:
        """The same on all nodes that know of it."""
        return xxhash.xxh3_64_intdigest(self.name + self.stamp.to_bytes(8, "little"))


class Removals:
    """The tombstones of one node."""

    def __init__(self, rng: random.Random) -> None:
        self._kept: dict[bytes, Removal] = {}
        self._by_stamp: list[tuple[int, bytes]] = []  # a heap; some of it is not kept any more
        self._oldest = math.inf
        self._floor = 0  # stamps up to here were dropped for their number
        self._parts: list[dict[bytes, None]] = [{} for _ in range(PARTS)]
        self._sums = [0] * PARTS
        self.sum = 0
        """64 bits that differ where what is known does."""
        self._untold: deque[tuple[Removal, int]] = deque(maxlen=UNTOLD_MAX)
        # A node that has just started does not know how far the others have counted. It must not, by chance, count as
        # they did: who hears an unknown removal with a stamp that is taken gives it a new one (`take_over`).
        self._highest = rng.randrange(_FIRST_STAMP_MAX)

    def __len__(self) -> int:
        return len(self._kept)

    def known(self, key: FeatureKey) -> int:
        """The stamp of the last removal of `key` or its image: what features knew whose making begins now."""
        if not self._kept:
            return 0
        return max(removal.stamp if (removal := self._kept.get(name)) else 0 for name in (key.packed, key.digest))

    def allows(self, payload: Payload) -> bool:
        """Whether `payload` was made in the knowledge of every removal of it that this node has heard of."""
        return not self._kept or payload.knows >= self.known(payload.key)

    def saw(self, payload: Payload) -> None:
        """`payload` is kept here from now on: there was a removal that its maker knew of."""
        self._highest = max(self._highest, payload.knows)

    # -- to remove ----------------------------------------------------------------------------------------------

    def make(self, names: Iterable[bytes], now: float) -> int:
        """A user removes `names`; the stamp of it, to be told to the others."""
        stamp = min(self._highest + 1, STAMP_MAX)
        for name in names:
            self._keep(Removal(name, stamp, now), now)
        return stamp

    def take_over(self, names: Iterable[bytes], stamp: int, now: float) -> int:
        """A member removes `names` for a user just now; the stamp of it, which is a later one where `stamp` is used up.

        InvalidValue for a stamp that no node gives.
        """
        self._check_stamp(stamp)
        names = list(names)
        told = [self._kept[name].stamp if name in self._kept else 0 for name in names]
        if stamp >= self._highest or all(known == stamp for known in told):
            for name in names:
                self._keep(Removal(name, stamp, now), now)
            return stamp
        return self.make(names, now)

    def hear(self, name: bytes, stamp: int, age_s: float, now: float) -> bool:
        """`name` was removed `age_s` ago; False if that is no news. InvalidValue for a stamp that no node gives."""
        self._check_stamp(stamp)
        known = self._kept.get(name)
        if (known is not None and known.stamp >= stamp) or age_s >= KEPT_S or stamp <= self._floor:
            return False
        self._keep(Removal(name, stamp, now - age_s), now)
        return True

    def tick(self, now: float) -> None:
        """Time passes: drop what is over."""
        if self._oldest >= now - KEPT_S:
            return
        for name in [name for name, removal in self._kept.items() if removal.since < now - KEPT_S]:
            self._drop(name)
        self._oldest = min((removal.since for removal in self._kept.values()), default=math.inf)

    # -- to compare and to tell ---------------------------------------------------------------------------------

    def sums(self) -> bytes:
        """8 bytes for each of the parts that differ where the parts do."""
        return b"".join(part.to_bytes(8, "little") for part in self._sums)

    def differing(self, sums: bytes) -> list[int]:
        """The parts that are not as `sums` says."""
        mine = self.sums()
        return [part for part in range(PARTS) if mine[8 * part : 8 * part + 8] != sums[8 * part : 8 * part + 8]]

    @property
    def has_untold(self) -> bool:
        """Whether something became known here since the last call of `untold`."""
        return bool(self._untold)

    def untold(self) -> list[tuple[Removal, int]]:
        """What became known here since the last call, with its age in seconds then."""
        news = list(self._untold)
        self._untold.clear()
        return news

    def all(self) -> list[Removal]:
        """Every removal that is known."""
        return list(self._kept.values())

    def names(self) -> list[bytes]:
        """The keys and images that were removed."""
        return list(self._kept)

    def part(self, number: int, most: int) -> list[Removal]:
        """The `most` latest removals of that part."""
        return [self._kept[name] for name in list(self._parts[number])[-most:]]

    # -- the table ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself."""
        assert len(self._kept) <= KEPT_MAX
        assert len(self._by_stamp) <= 2 * len(self._kept) + _STALE_MAX
        assert set(self._kept) <= {name for _, name in self._by_stamp}
        assert sorted(name for part in self._parts for name in part) == sorted(self._kept)
        for number, part in enumerate(self._parts):
            expected = 0
            for name in part:
                assert name[0] % PARTS == number
                expected ^= self._kept[name].digest()
            assert self._sums[number] == expected
        assert self.sum == functools.reduce(operator.xor, self._sums)

    def _keep(self, removal: Removal, now: float) -> None:
        if removal.name in self._kept:
            self._drop(removal.name)
        self._highest = max(self._highest, removal.stamp)
        self._untold.append((removal, round(now - removal.since)))
        self._kept[removal.name] = removal
        self._parts[removal.name[0] % PARTS][removal.name] = None
        self._sums[removal.name[0] % PARTS] ^= removal.digest()
        self.sum ^= removal.digest()
        self._oldest = min(self._oldest, removal.since)
        heapq.heappush(self._by_stamp, (removal.stamp, removal.name))
        while len(self._kept) > KEPT_MAX:
            stamp, name = heapq.heappop(self._by_stamp)
            if name in self._kept and self._kept[name].stamp == stamp:
                self._drop(name)
                self._floor = max(self._floor, stamp)
        if len(self._by_stamp) > 2 * len(self._kept) + _STALE_MAX:
            self._by_stamp = sorted((removal.stamp, name) for name, removal in self._kept.items())

    def _drop(self, name: bytes) -> None:
        removal = self._kept.pop(name)
        del self._parts[name[0] % PARTS][name]
        self._sums[name[0] % PARTS] ^= removal.digest()
        self.sum ^= removal.digest()

    def _check_stamp(self, stamp: int) -> None:
        if not 0 < stamp <= STAMP_MAX:
            raise InvalidValue(f"stamp {stamp} of a removal: between 1 and {STAMP_MAX}")
