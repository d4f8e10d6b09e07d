"""The memory that features lie in: one mapping, given out in slots, and none twice while anybody still looks at it.

A slot is handed out as a memoryview, and so is all that is made of it: a payload, what waits in a socket's queue, an
array that a user reads. None of them copies, and each keeps the slot's owner, a small array, alive; when the last one
is gone, and not before, the slot is free. So an entry may be evicted while its bytes are being sent, and who sends them
need not know of evictions.
"""

from __future__ import annotations

import contextlib
import mmap
from collections import deque
from typing import TYPE_CHECKING, cast

import numpy as np

from ...protocol.errors import InvalidValue
from ...protocol.frames import uninitialized
from .extents import BLOCK_BYTES, PAGE_BYTES, Extents, rounded

if TYPE_CHECKING:
    from ...protocol.payload import Payload

# Address space for each byte of capacity. With 2 as with 4, no allocation of the mixes in `extents.py` failed for want
# of a hole; what is beyond that is room for the capacity to grow at run time.
SPACE_FACTOR = 4
# Entries up to this size are moved together where memory is short: else each keeps a page from being given back.
MOVED_BYTES_MAX = 16 * PAGE_BYTES
# What a process has grown by for each of 25,000 entries of 1.3 KB that lie here, besides their pages: 1,183 with LRU,
# 1,419 with adaptive LRU-K, 1,339 with predictive LRU-K (`python -m tests.bench.overhead`).
ENTRY_BYTES = 1250
# What is said to be on its way gets a slot only up to this size; the rest is copied when it is here and is good.
ARRIVING_BYTES_MAX = 1024 * 1024

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python names it from 3.12 on
_NO_HUGE_PAGE = getattr(mmap, "MADV_NOHUGEPAGE", 15)


class _Slot(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """The owner of a slot's bytes. When nobody looks at them any more it says so to the arena that it is of."""

    __slots__ = ("let_go", "start")
    start: int
    let_go: deque[int]

    def __del__(self) -> None:
        if hasattr(self, "start"):  # else it is a part of one, or what all are parts of
            self.let_go.append(self.start)


class Arena:
    """`memory.Room` in one mapping, of which only what is used is resident. Slots may be let go from any thread."""

    entry_bytes = ENTRY_BYTES
    spare_share = 1 / 64
    """The share of the capacity that is kept free, so that what arrives can be received where it stays."""

    def __init__(self, capacity_bytes: int) -> None:
        """InvalidValue where the system gives no addresses for `capacity_bytes`."""
        self.capacity_bytes_max = SPACE_FACTOR // 2 * capacity_bytes
        """What the capacity may grow to."""
        space_bytes = max(SPACE_FACTOR * capacity_bytes, 16 * PAGE_BYTES)
        self._extents = Extents(space_bytes, self._give_back)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        try:
            self._map = mmap.mmap(-1, self._extents.space_bytes, flags=flags)
        except OSError as error:  # as where the kernel is told not to overcommit
            raise InvalidValue(
                f"memory of {capacity_bytes} bytes: no {space_bytes} bytes of addresses for it: {error.strerror}"
            ) from None
        with contextlib.suppress(OSError):  # a kernel without huge pages
            # One of 2 MiB would keep all of it resident for one feature that is left in it.
            self._map.madvise(_NO_HUGE_PAGE)
        self._bytes = np.frombuffer(self._map, np.uint8).view(_Slot)
        self._keys: dict[int, bytes] = {}  # of small payloads, by where they start
        self._sparse: list[int] = []
        self._let_go: deque[int] = deque()  # where slots start

    @property
    def used_bytes(self) -> int:
        """Bytes of the slots that somebody looks at."""
        self._collect()
        return self._extents.live_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of memory that it takes."""
        return self._extents.resident_bytes

    def footprint(self, payload: Payload) -> int:
        """How many bytes `payload` takes."""
        return rounded(payload.nbytes)

    def place(self, payload: Payload, resident_max: int) -> Payload | None:
        """`payload` in a slot, copied if it lies in none yet; None if `resident_max` bytes do not do for that."""
        if (slot := self._slot(payload)) is not None:
            self.trim(resident_max)
            if self.resident_bytes > resident_max:
                return None
            return self._kept(payload, slot)
        slot = self.allocate(payload.nbytes, resident_max)
        return self._copied(payload, slot) if slot is not None else None

    def arriving(self, size: int, resident_max: int) -> memoryview:
        """Where `size` bytes may be received: a slot if there is room for it and they are not too many."""
        slot = self.allocate(size, resident_max) if size <= ARRIVING_BYTES_MAX else None
        return slot.data if slot is not None else uninitialized(size)

    def sparse(self) -> list[bytes]:
        """The keys of small payloads that keep most pages from being given back: those of one block."""
        self._collect()
        if not self._sparse:
            self._sparse = self._extents.sparse_blocks()
        keys: list[bytes] = []
        while self._sparse and not keys:
            starts = self._extents.starts_in(self._sparse.pop())
            keys = [key for start in starts if (key := self._keys.get(start)) is not None]
        return keys

    def moved(self, payload: Payload) -> Payload | None:
        """A small payload in a new slot beside those moved before it; None if it is large, or there is no room."""
        if payload.nbytes > MOVED_BYTES_MAX:
            return None
        # Some pages more, until what is moved has left its own.
        resident_max = self.resident_bytes + 2 * PAGE_BYTES + payload.nbytes
        slot = self.allocate(payload.nbytes, resident_max, is_moving=True)
        return self._copied(payload, slot) if slot is not None else None

    def let_go(self, payload: Payload) -> None:
        """The store does not hold `payload` any more; nothing to do, since others may."""

    def trim(self, resident_max: int) -> None:
        """Give memory back until `resident_max` bytes are resident, as far as nobody uses it."""
        self._collect()
        self._extents.trim(resident_max)

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself."""
        self._collect()
        assert self._keys.keys() <= set(self._extents.starts())
        self._extents.check()

    def allocate(self, size: int, resident_max: int, *, is_moving: bool = False) -> _Slot | None:
        """A writable slot of `size` bytes, free again when nobody looks at it any more."""
        self._collect()
        start = self._extents.allocate(size, resident_max, from_largest=is_moving)
        if start is None:
            return None
        slot = cast("_Slot", self._bytes[start : start + size])
        slot.start, slot.let_go = start, self._let_go
        return slot

    def _slot(self, payload: Payload) -> _Slot | None:
        """The slot that `payload` is the whole of."""
        held = payload.held
        owner = held.obj if isinstance(held, memoryview) else held
        if isinstance(owner, _Slot) and owner.let_go is self._let_go and len(owner) == payload.nbytes:
            return owner
        return None

    def _copied(self, payload: Payload, slot: _Slot) -> Payload:
        slot.data[:] = payload.data
        return self._kept(payload, slot)

    def _kept(self, payload: Payload, slot: _Slot) -> Payload:
        if payload.nbytes <= BLOCK_BYTES:
            self._keys[slot.start] = payload.key.packed
        return payload.at(slot)

    def _collect(self) -> None:
        """Free the slots that were let go; done here, where only one thread comes."""
        while self._let_go:
            start = self._let_go.popleft()
            self._keys.pop(start, None)
            self._extents.free(start)

    def _give_back(self, start: int, size: int) -> None:
        self._map.madvise(mmap.MADV_DONTNEED, start, size)
