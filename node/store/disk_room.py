"""Finds a slot for what is to be written to disk: grows, empties a segment for another size of slot, or evicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .disk_index import DiskIndex, Entry
from .records import HEADER_BYTES
from .segment_files import SegmentFiles, Write
from .slots import Place, Segment, slot_bytes_for

if TYPE_CHECKING:
    from .disk_stats import DiskStats
    from .threads import Threads


class DiskRoom:
    """The slots of one store's files. Used by its writer alone."""

    def __init__(
        self,
        index: DiskIndex,
        files: SegmentFiles,
        threads: Threads,
        stats: DiskStats,
        *,
        on_trouble: Callable[[str, OSError], None],
        on_deleted: Callable[[int], None],
    ) -> None:
        """`on_trouble` hears what could not be done and why, `on_deleted` which segment is no more."""
        self._index = index
        self._files = files
        self._threads = threads
        self._stats = stats
        self._on_trouble = on_trouble
        self._on_deleted = on_deleted
        self._set_aside_bytes = files.set_aside_bytes()

    async def place(self, key: bytes, data_bytes: int, writes: Sequence[Write], *, can_grow: bool) -> Place | None:
        """A slot for so much data: a free one, one of a new or emptied segment, or one that an eviction frees.

        A segment that the batch is about to write to, `writes`, is not emptied. None where there is none: the disk is
        full, or in trouble, and holds nothing that could go.
        """
        slots = self._index.slots
        slot_bytes = slot_bytes_for(HEADER_BYTES + data_bytes)
        while True:
            if self._index.has_room:
                if (place := slots.take(slot_bytes, key)) is not None:
                    return place
                segment = slots.next_segment(slot_bytes, self._set_aside_bytes)
                if segment is not None and can_grow:
                    can_grow = await self._create(segment)
                    continue
                if (
                    emptied := slots.to_drain(slot_bytes, {write.place.segment for write in writes})
                ) is not None and await self._drain(emptied):
                    can_grow = True  # into the room that this has made
                    continue
                if (place := slots.take_larger(slot_bytes, key)) is not None:
                    return place
            if not self._index.evict():
                return None

    async def _create(self, segment: Segment) -> bool:
        """Make a segment; False if the disk has no room for it."""
        try:
            await self._threads.write(self._files.create, segment)
        except FileExistsError:
            self._index.slots.skip(segment.number)
        except OSError as error:
            self._on_trouble("grow", error)
            return False
        else:
            self._index.slots.add(segment)
        return True

    async def _drain(self, number: int) -> bool:
        """Move what a segment holds to others of its slot size, and delete it; False if the disk fails."""
        slots = self._index.slots
        moved: list[tuple[bytes, Entry, Place]] = []
        writes: list[Write] = []
        try:
            for place, key in slots.occupants(number):
                entry = self._index.entries.get(key)
                if entry is None or entry.place != place:  # an old record of a key that was put again
                    continue
                data = await self._threads.write(self._files.read, place, key, entry.sequence, entry.data_bytes)
                if data is None:
                    self._stats.corrupt += 1
                    self._index.drop(key)
                    continue
                target = slots.take(slots.shape(number).slot_bytes, key, without=number)
                assert target is not None, "to_drain counted the free slots"
                moved.append((key, entry, target))
                writes.append(Write(target, entry.sequence, key, data))
            self._index.taken(target for _, _, target in moved)
            await self._threads.write(self._files.write, writes, ())
            await self._threads.write(self._files.sync, {target.segment for _, _, target in moved})
            await self._threads.write(self._files.delete, number)
        except OSError as error:
            self._on_trouble("be written to", error)
            self._index.release(target for _, _, target in moved)
            return False
        for key, entry, target in moved:
            self._index.move(key, target)
            self._stats.written_bytes += entry.data_bytes
        self._stats.moved += len(moved)
        self._index.lose_segment(number)
        self._on_deleted(number)
        return True
