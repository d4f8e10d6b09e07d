"""What is remembered of entries that are gone: a few numbers for each, found again by the digest of its key."""

from __future__ import annotations

from array import array

import numpy as np

WAYS = 4
_SETS_MIN = 8
_TAG_MASK = (1 << 22) - 1


class Ghosts:
    """The last so many ghosts, in arrays: 4 bytes and the width of its columns for each. O(1) each.

    A key's digest says in which of many sets of four its ghost lies, and 32 more of its bits tell it from the others
    there. A set is a ring: a new ghost takes the place of the oldest. So a ghost lasts for as many newer ones as there
    are places, give or take a half (the fourth arrival in a set ends it), and one lookup in a thousand million takes a
    stranger for it, which costs a wrong guess and nothing else. A dictionary of the keys themselves takes ten times
    the room. The idea is that of the ghost table in J. Yang et al., "FIFO queues are all you need for cache eviction",
    SOSP 2023, section 4.2.

    A column is an array that the owner reads and writes at the place that `find` and `put` name.
    """

    __slots__ = ("_columns", "_rings", "_tags", "sets")

    def __init__(self, *columns: array[int] | array[float]) -> None:
        self._columns = columns
        self._tags = array("I")
        self._rings = bytearray()  # which way of each set is next
        self.sets = 0

    def __len__(self) -> int:
        return WAYS * self.sets

    def ensure_room(self, ghosts: float) -> None:
        """Have places for about so many: exactly at first, then twice as many as needed, which forgets none."""
        if not self.sets:
            self.sets = max(_SETS_MIN, round(ghosts / WAYS))
            self._rings = bytearray(self.sets)
            for column in (self._tags, *self._columns):
                column.frombytes(bytes(column.itemsize * WAYS * self.sets))
        while WAYS * self.sets * 1.5 < ghosts:
            # A set becomes two; each ghost is in both, and from now on looked for in one.
            self.sets *= 2
            self._rings = bytearray(np.repeat(np.frombuffer(self._rings, np.uint8), 2).tobytes())
            for column in (self._tags, *self._columns):
                of_sets = np.frombuffer(column.tobytes(), column.typecode).reshape(-1, WAYS)
                del column[:]
                column.frombytes(np.repeat(of_sets, 2, axis=0).tobytes())

    def find(self, digest: int) -> int:
        """The place of the ghost of a key with this digest, -1 if there is none."""
        first = (digest >> 32) * self.sets >> 32 << 2
        ways = self._tags[first : first + WAYS]
        tag = digest & _TAG_MASK or 1
        return first + ways.index(tag) if tag in ways else -1

    def put(self, digest: int) -> int:
        """A place for a new ghost, whose columns are the caller's to set. There must be room for some."""
        of = (digest >> 32) * self.sets >> 32
        way = self._rings[of]
        self._rings[of] = way + 1 & WAYS - 1
        place = of << 2 | way
        self._tags[place] = digest & _TAG_MASK or 1
        return place

    def take(self, place: int) -> None:
        """The ghost at `place` is no longer needed."""
        self._tags[place] = 0

    def check(self) -> None:
        """Assert that everything is as long as it should be."""
        assert len(self._rings) == self.sets
        assert max(self._rings, default=0) < WAYS
        assert all(len(column) == len(self) for column in (self._tags, *self._columns))
