"""Which keys one node holds, by their fingerprints: 4 bytes for each, and what changed lately. Pure.

A sorted array answers by bisection. Where it is short, each change moves what follows in it. A long one is made anew
when a sixty-fourth of it, or 64 keys, have changed: each change costs the copying of some 64 entries, and neither
memory nor processor time has a peak.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

# Of 1,000 keys a change takes 0.7 µs so and 2 where the list is made anew for each 64; of 16,000 it takes 1.2 and 2
# (python -m tests.bench.directory copies).
_SHORT_MAX = 16_384
_RECENT_MIN = 64
_RECENT_SHARE = 64


class Holdings:
    """A set of fingerprints."""

    __slots__ = ("_count", "_recent", "_sorted")

    def __init__(self) -> None:
        self._sorted = array("I")
        self._recent: dict[int, bool] = {}  # what differs from it; never what does not
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, fingerprint: int) -> bool:
        is_held = self._recent.get(fingerprint)
        if is_held is not None:
            return is_held
        ordered = self._sorted  # as in `_is_sorted`: each request asks this of each list that is followed
        at = bisect_left(ordered, fingerprint)
        return at < len(ordered) and ordered[at] == fingerprint

    def add(self, fingerprint: int) -> bool:
        """Whether it was not there."""
        has_turned = self._turn(fingerprint, True)
        self._keep_recent_small()
        return has_turned

    def discard(self, fingerprint: int) -> bool:
        """Whether it was there."""
        has_turned = self._turn(fingerprint, False)
        self._keep_recent_small()
        return has_turned

    def update(self, added: Sequence[int], removed: Sequence[int]) -> int:
        """All of them; how many more it holds now."""
        before = self._count
        if not self._recent and before + len(added) <= _SHORT_MAX:
            ordered = self._sorted  # as in `_turn`: each node does this for each change of each node that it follows
            for fingerprint in added:
                at = bisect_left(ordered, fingerprint)
                if at == len(ordered) or ordered[at] != fingerprint:
                    ordered.insert(at, fingerprint)
            for fingerprint in removed:
                at = bisect_left(ordered, fingerprint)
                if at < len(ordered) and ordered[at] == fingerprint:
                    del ordered[at]
            self._count = len(ordered)
            return self._count - before
        for fingerprint in added:
            self._turn(fingerprint, True)
        for fingerprint in removed:
            self._turn(fingerprint, False)
        self._keep_recent_small()
        return self._count - before

    def replace(self, fingerprints: array[int]) -> None:
        """Hold exactly these, which rise strictly."""
        self._sorted, self._recent, self._count = fingerprints, {}, len(fingerprints)

    def fingerprints(self) -> array[int]:
        """All of them, rising; not to be changed."""
        self._merge()
        return self._sorted

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself."""
        assert all(self._is_sorted(fingerprint) is not held for fingerprint, held in self._recent.items())
        gained = sum(1 if held else -1 for held in self._recent.values())
        assert self._count == len(self._sorted) + gained
        assert len(self._recent) <= max(_RECENT_MIN, len(self._sorted) // _RECENT_SHARE)

    def _turn(self, fingerprint: int, held: bool) -> bool:
        recent, ordered = self._recent, self._sorted
        was_held = recent.get(fingerprint)
        if was_held is None:
            at = bisect_left(ordered, fingerprint)
            if (at < len(ordered) and ordered[at] == fingerprint) is held:
                return False
            if recent or len(ordered) > _SHORT_MAX:
                recent[fingerprint] = held
            elif held:
                ordered.insert(at, fingerprint)
            else:
                del ordered[at]
        elif was_held is held:
            return False
        else:  # it is again as it was
            del recent[fingerprint]
        self._count += 1 if held else -1
        return True

    def _keep_recent_small(self) -> None:
        recent = len(self._recent)
        if recent > _RECENT_MIN and recent > len(self._sorted) // _RECENT_SHARE:
            self._merge()

    def _is_sorted(self, fingerprint: int) -> bool:
        ordered = self._sorted
        at = bisect_left(ordered, fingerprint)
        return at < len(ordered) and ordered[at] == fingerprint

    def _merge(self) -> None:
        if not self._recent:
            return
        former = np.frombuffer(self._sorted, np.uint32)
        added = np.array(sorted(fp for fp, held in self._recent.items() if held), np.uint32)
        removed = np.array(sorted(fp for fp, held in self._recent.items() if not held), np.uint32)
        kept = np.delete(former, np.searchsorted(former, removed))
        merged = np.insert(kept, np.searchsorted(kept, added), added)
        self._sorted, self._recent = array("I"), {}
        self._sorted.frombytes(merged.tobytes())
