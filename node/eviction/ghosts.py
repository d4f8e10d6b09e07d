"""What is remembered of entries that are gone: a few numbers for each, found again by the digest of its key."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

WAYS = 4
_SETS_MIN = 8
_TAG_MASK = (1 << 22) - 1


class Ghosts:
    """The last so many ghosts, in arrays: 4 bytes and the width of its columns for each. O(1) each.

    A key's digest says in which of many sets of four its ghost lies, and 22 more of its bits tell it from the others
    there. A set is a ring: a new ghost takes the place of the oldest. So a ghost lasts for as many newer ones as there
    are places, give or take a half (the fourth arrival in a set ends it), and one lookup in a million takes a stranger
    for it, which costs a wrong guess and nothing else. A dictionary of the keys themselves takes ten times
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
            self._rings *= 2
            for column in (self._tags, *self._columns):
                column.frombytes(column.tobytes())

    def find(self, digest: int) -> int:
        """The place of the ghost of a key with this digest, -1 if there is none."""
        first = (digest >> 32) % self.sets << 2
        ways = self._tags[first : first + WAYS]
        tag = digest & _TAG_MASK or 1
        return first + ways.index(tag) if tag in ways else -1

    def put(self, digest: int) -> int:
        """A place for a new ghost, whose columns are the caller's to set. There must be room for some."""
        of = (digest >> 32) % self.sets
        rings = self._rings
        way = rings[of]
        rings[of] = way + 1 & 3
        place = of << 2 | way
        self._tags[place] = digest & _TAG_MASK or 1
        return place

    def find_many(self, digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The places of the ghosts of many keys, -1 where there is none."""
        firsts = (digests >> np.uint64(32)).astype(np.int64) % self.sets * WAYS
        ways = firsts[:, None] + np.arange(WAYS)  # (digests, 4)
        is_tag = np.frombuffer(self._tags, np.uint32)[ways] == _tags_of(digests)[:, None]
        return np.where(is_tag.any(axis=1), firsts + is_tag.argmax(axis=1), -1)

    def put_many(self, digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Places for many new ghosts, the newest last; of more than four in one set the last four stay."""
        sets = (digests >> np.uint64(32)).astype(np.int64) % self.sets
        order = np.argsort(sets, kind="stable")
        ordered = sets[order]
        is_first = np.ones(len(sets), np.bool_)
        is_first[1:] = ordered[1:] != ordered[:-1]
        firsts = np.flatnonzero(is_first)
        turns = np.empty(len(sets), np.int64)  # how many went before it into the same set
        turns[order] = np.arange(len(sets)) - np.repeat(firsts, np.diff(firsts, append=len(sets)))
        rings = np.frombuffer(self._rings, np.uint8)
        ways = (rings[sets] + turns) % WAYS
        rings[sets] = (ways + 1) % WAYS
        places = sets * WAYS + ways
        np.frombuffer(self._tags, np.uint32)[places] = _tags_of(digests)
        return places

    def take(self, place: int) -> None:
        """The ghost at `place` is no longer needed."""
        self._tags[place] = 0

    def check(self) -> None:
        """Assert that everything is as long as it should be."""
        assert len(self._rings) == self.sets
        assert max(self._rings, default=0) < WAYS
        assert all(len(column) == len(self) for column in (self._tags, *self._columns))


def _tags_of(digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    tags: npt.NDArray[np.uint32] = np.maximum(digests & np.uint64(_TAG_MASK), np.uint64(1)).astype(np.uint32)
    return tags
