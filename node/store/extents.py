"""Which bytes of the arena are whose, and which of its pages are there: the pure half of `arena.py`.

What is lost to fragmentation is measured in `tests/bench/fragmentation.py`: of a full arena 1 to 2 % with one size and
with mixes of all sizes from 0.5 KB to 1 MB, and 2.5 % where small sizes change; 3.3 % at worst. It includes the 64th
that is kept free for what arrives. Without moving anything (`sparse_blocks`) the changing sizes cost 5.5 %, at worst
8.8 %.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable

import numpy as np

ALIGNMENT = 64
PAGE_BYTES = 4096
# What is looked at together where little entries keep pages from being given back.
BLOCK_BYTES = 16 * PAGE_BYTES
# So many of the worst are named at a time, since looking for them takes as long as some hundred allocations.
SPARSE_BLOCKS = 64


class Extents:
    """Allocations in an address space that is several times larger than what may be resident of it.

    Addresses cost nothing, so there are neither size classes nor compaction: an allocation takes the smallest hole that
    it fits into, and of equal ones the last that was left, whose pages are there and warm. Where resident memory is
    short, the whole pages inside other holes go back to the system. What is lost is what shares a page with something
    live: where that is little, whoever owns it may move it elsewhere (`sparse_blocks`, `starts_in`).

    An encoder's features are all of one size. So what was freed waits as it was for the next of exactly its size, and
    becomes a hole, one with its neighbours, only when something else is asked for.

    `give_back` is told which pages are not needed any more, by their first byte and their size.
    """

    def __init__(self, space_bytes: int, give_back: Callable[[int, int], None]) -> None:
        pages = -(-space_bytes // PAGE_BYTES)
        blocks = -(-space_bytes // BLOCK_BYTES)
        self.space_bytes = pages * PAGE_BYTES
        self.live_bytes = 0
        """Bytes that are allocated, each allocation rounded up to 64."""
        self.resident_bytes = 0
        """Bytes of the pages that were allocated from and not given back since."""
        self._give_back = give_back
        self._is_resident = np.zeros(blocks * (BLOCK_BYTES // PAGE_BYTES), np.bool_)
        self._live: dict[int, int] = {}  # start -> bytes
        self._live_in_block = np.zeros(blocks, np.int64)
        self._freed: dict[int, list[int]] = {}  # bytes -> where allocations of so many started
        self._holes: dict[int, int] = {}  # start -> bytes
        self._hole_ends: dict[int, int] = {}  # end -> start
        self._starts: dict[int, dict[int, None]] = {}  # bytes -> where holes of so many start, the last left last
        self._sizes: list[int] = []  # of the holes, ascending, each once
        self._warm: set[int] = set()  # holes of which all pages are resident, where they start
        self._maybe_warm: dict[int, None] = {}  # those of which whole pages may be, the first left first
        self._add_hole(0, self.space_bytes, is_warm=False)

    def __len__(self) -> int:
        """How many allocations there are."""
        return len(self._live)

    def starts(self) -> Iterable[int]:
        """Where the allocations begin."""
        return self._live.keys()

    def allocate(self, size: int, resident_max: int, *, from_largest: bool = False) -> int | None:
        """Where `size` bytes may lie; None where `resident_max` bytes of pages, or the holes there are, do not do.

        `from_largest` takes from the largest hole: what is allocated so one after the other lies side by side.
        """
        size = rounded(size)
        if self.resident_bytes > resident_max:
            self.trim(resident_max)
            if self.resident_bytes > resident_max:
                return None
        if not from_largest and (waiting := self._freed.get(size)):
            start = waiting.pop()
            self._count(start, size, 1)
            return start
        self._make_holes()
        at = bisect_left(self._sizes, size)
        if at == len(self._sizes):
            return None
        hole = self._sizes[-1 if from_largest else at]
        start = next(reversed(self._starts[hole]))
        if start in self._warm:
            self._drop_hole(start, hole)
            if hole > size:
                self._add_hole(start + size, hole - size, is_warm=True)
        else:
            pages = self._is_resident[start // PAGE_BYTES : -(-(start + size) // PAGE_BYTES)]
            lacking = (len(pages) - int(np.count_nonzero(pages))) * PAGE_BYTES
            # The other holes give first; this one would be asked to give back what it is taken for.
            self._maybe_warm.pop(start, None)
            self.trim(resident_max - lacking)
            self._maybe_warm[start] = None
            if self.resident_bytes + lacking > resident_max:
                return None
            self._drop_hole(start, hole)
            if hole > size:
                self._add_hole(start + size, hole - size, is_warm=False)
            pages[:] = True
            self.resident_bytes += lacking
        self._count(start, size, 1)
        return start

    def free(self, start: int) -> None:
        """What was allocated at `start` is not needed any more; its pages stay for what comes next."""
        size = self._live[start]
        self._count(start, size, -1)
        self._freed.setdefault(size, []).append(start)

    def _count(self, start: int, size: int, sign: int) -> None:
        """An allocation is made (1), or is no more (-1)."""
        if sign > 0:
            self._live[start] = size
        else:
            del self._live[start]
        self.live_bytes += sign * size
        first, last = start // BLOCK_BYTES, (start + size - 1) // BLOCK_BYTES
        if first == last:
            self._live_in_block[first] += sign * size
        else:
            self._live_in_block[first] += sign * ((first + 1) * BLOCK_BYTES - start)
            self._live_in_block[last] += sign * (start + size - last * BLOCK_BYTES)
            if last - first > 1:
                self._live_in_block[first + 1 : last] += sign * BLOCK_BYTES

    def sparse_blocks(self) -> list[int]:
        """Where the blocks begin that have most resident bytes for what is live in them, the worst last.

        Of those where moving that would win a page.
        """
        resident = self._is_resident.reshape(-1, BLOCK_BYTES // PAGE_BYTES).sum(axis=1, dtype=np.int64) * PAGE_BYTES
        won = resident - self._live_in_block
        won[(self._live_in_block == 0) | (won < PAGE_BYTES)] = 0
        few = min(SPARSE_BLOCKS, len(won))
        worst = np.argpartition(won, -few)[-few:]
        ranked = sorted((int(won[block]), int(block)) for block in worst if won[block])
        return [block * BLOCK_BYTES for _, block in ranked]

    def starts_in(self, block: int) -> list[int]:
        """Where the allocations begin that begin in the block at `block`."""
        starts = []
        at, end = block, block + BLOCK_BYTES
        while at < end:
            if (size := self._live.get(at)) is not None:
                starts.append(at)
                at += size
            else:
                at += self._holes.get(at, ALIGNMENT)
        return starts

    def _make_holes(self) -> None:
        """What was freed and not taken again becomes holes."""
        for size, starts in self._freed.items():
            for start in starts:
                self._make_hole(start, size)
        self._freed.clear()

    def _make_hole(self, start: int, size: int) -> None:
        is_warm = True
        if (before := self._hole_ends.get(start)) is not None:
            is_warm = before in self._warm
            size += self._drop_hole(before, start - before)
            start = before
        if (after := self._holes.get(start + size)) is not None:
            is_warm = is_warm and start + size in self._warm
            size += self._drop_hole(start + size, after)
        self._add_hole(start, size, is_warm=is_warm)

    def trim(self, resident_max: int) -> None:
        """Give back pages that nothing lives on, of the holes left first, until `resident_max` bytes are resident."""
        if self.resident_bytes > resident_max:
            self._make_holes()
        while self.resident_bytes > resident_max and self._maybe_warm:
            start = next(iter(self._maybe_warm))
            first, last = -(-start // PAGE_BYTES), (start + self._holes[start]) // PAGE_BYTES
            here = np.flatnonzero(self._is_resident[first:last])
            excess = -(-(self.resident_bytes - resident_max) // PAGE_BYTES)
            if len(here) <= excess:
                del self._maybe_warm[start]
            here = here[:excess]
            if len(here):
                self._warm.discard(start)
                low, high = first + int(here[0]), first + int(here[-1]) + 1
                self._give_back(low * PAGE_BYTES, (high - low) * PAGE_BYTES)
                self._is_resident[low:high] = False
                self.resident_bytes -= len(here) * PAGE_BYTES

    def check(self) -> None:
        """Assert that allocations and holes tile the space, holes do not touch, and the sums are right."""
        self._make_holes()
        tiles = sorted([(s, n, True) for s, n in self._live.items()] + [(s, n, False) for s, n in self._holes.items()])
        at, was_live = 0, True
        for start, size, is_live in tiles:
            assert start == at
            assert size > 0
            assert is_live or was_live
            at, was_live = start + size, is_live
        assert at == self.space_bytes
        assert self.live_bytes == sum(self._live.values()) == self._live_in_block.sum()
        assert self.resident_bytes == int(np.count_nonzero(self._is_resident)) * PAGE_BYTES
        assert self._hole_ends == {start + size: start for start, size in self._holes.items()}
        assert {size: set(starts) for size, starts in self._starts.items()} == {
            size: {start for start, this in self._holes.items() if this == size} for size in self._holes.values()
        }
        assert self._sizes == sorted(self._starts)
        for start, size in self._live.items():
            assert self._is_resident[start // PAGE_BYTES : -(-(start + size) // PAGE_BYTES)].all()
        for start, size in self._holes.items():
            cold = not self._is_resident[-(-start // PAGE_BYTES) : (start + size) // PAGE_BYTES].any()
            assert cold or start in self._maybe_warm
            if start in self._warm:
                assert self._is_resident[start // PAGE_BYTES : -(-(start + size) // PAGE_BYTES)].all()

    def _add_hole(self, start: int, size: int, *, is_warm: bool) -> None:
        self._holes[start] = size
        self._hole_ends[start + size] = start
        if (starts := self._starts.get(size)) is None:
            insort(self._sizes, size)
            starts = self._starts[size] = {}
        starts[start] = None
        if is_warm:
            self._warm.add(start)
        if size >= PAGE_BYTES:
            self._maybe_warm[start] = None

    def _drop_hole(self, start: int, size: int) -> int:
        del self._holes[start]
        del self._hole_ends[start + size]
        starts = self._starts[size]
        del starts[start]
        if not starts:
            del self._starts[size]
            del self._sizes[bisect_left(self._sizes, size)]
        self._warm.discard(start)
        self._maybe_warm.pop(start, None)
        return size


def rounded(size: int) -> int:
    """What an allocation of `size` bytes takes."""
    return (size + ALIGNMENT - 1) & -ALIGNMENT
