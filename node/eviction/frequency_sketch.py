"""Roughly how often a key was used lately, without keeping the key."""

from __future__ import annotations

from collections.abc import Hashable

from xxhash import xxh3_64_intdigest

ROWS = 4
COUNT_MAX = 15
COUNTERS_PER_ENTRY = 4  # of each row; Caffeine's choice
SAMPLE_PER_ENTRY = 10  # uses until all counts are halved, for each entry held (TinyLFU, section 3.3)
_WIDTH_MIN = 64
_HALVED = bytes(count // 2 for count in range(256))


class FrequencySketch:
    """A count-min sketch of small counters that age: every so often all are halved. O(1) each, amortised.

    A key has a counter in each row; a use adds one to those that are the smallest of the four (conservative update),
    and the smallest is the estimate: never too low but for ageing, too high where a key shares all four. G. Einziger,
    R. Friedman, B. Manes, "TinyLFU: a highly efficient cache admission policy", ACM Transactions on Storage 13(4),
    2017, section 3; without the doorkeeper. A byte holds a counter of four bits: halving is one `translate`.
    """

    def __init__(self) -> None:
        self._width = _WIDTH_MIN
        self._rows = [bytearray(self._width) for _ in range(ROWS)]
        self._uses = 0

    def ensure_room(self, entries: int) -> None:
        """Be wide enough for so many entries. Doubling a row by its copy keeps every estimate."""
        while self._width < COUNTERS_PER_ENTRY * entries:
            self._rows = [row + row for row in self._rows]
            self._width *= 2

    def add(self, key: Hashable) -> None:
        """Count a use of `key`."""
        mask = self._width - 1
        one, two, three, four = self._rows
        digest = key_digest(key)
        step = digest >> 32 | 1
        a, b, c, d = digest & mask, digest + step & mask, digest + 2 * step & mask, digest + 3 * step & mask
        least = min(one[a], two[b], three[c], four[d])
        if least < COUNT_MAX:
            for row, index in ((one, a), (two, b), (three, c), (four, d)):
                if row[index] == least:
                    row[index] += 1
        self._uses += 1
        if self._uses * COUNTERS_PER_ENTRY >= SAMPLE_PER_ENTRY * self._width:
            self._rows = [row.translate(_HALVED) for row in self._rows]
            self._uses //= 2

    def estimate(self, key: Hashable) -> int:
        """About how often `key` was used lately, at most 15."""
        mask = self._width - 1
        one, two, three, four = self._rows
        digest = key_digest(key)
        step = digest >> 32 | 1
        return min(
            one[digest & mask],
            two[digest + step & mask],
            three[digest + 2 * step & mask],
            four[digest + 3 * step & mask],
        )

    def check(self) -> None:
        """Assert that every counter is in its range."""
        assert all(len(row) == self._width and max(row) <= COUNT_MAX for row in self._rows)


def key_digest(key: Hashable) -> int:
    """64 bits that look random and depend on `key` alone; Python's `hash` of bytes differs from run to run."""
    if isinstance(key, bytes):
        return xxh3_64_intdigest(key)
    if isinstance(key, int):
        mixed = (key ^ key >> 32) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        mixed = (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        return mixed ^ mixed >> 32
    return xxh3_64_intdigest(repr(key).encode())
