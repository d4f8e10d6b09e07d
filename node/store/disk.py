"""The disk tier: entries in slots of segment files, written behind, bounded in bytes; a policy says who goes.

    put     the entry is queued, and found from then on
    batch   0.1 s later, or 8 MiB: a slot for each, evicting for it; one thread writes them
    sync    2 s later, or at once for whoever waits in `flush`: from here on a power cut does no harm
    get     one read on one of a few threads; what does not match its checksum is a miss, and erased

What survives: kill -9, whatever was written; a power cut, whatever was synced. A record is never written over a live
one: of a key that is put again the old record lies untouched until the new one is synced, so what comes back is the
old or the new. A removal is on disk with the next batch, and safe from a power cut with the next sync.

All bookkeeping is the event loop's; threads see places and bytes. A disk that is full, read-only or gone takes nothing
new, says so in `trouble`, is tried again every 30 s, and takes nobody down.

Why not a database: LMDB maps its file, so that a bad block or a truncated file is a SIGBUS that ends the process, what
was read counts as the process's memory, and the file does not shrink (one of mixed sizes held .88 of itself in live
entries); SQLite writes what it stores twice or syncs three times a batch, and one bad page can cost the whole database.
A cache needs neither order nor transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ...protocol.errors import CorruptPayload
from .access_history import USE_BYTES_MAX
from .disk_index import DiskIndex, Entry
from .disk_room import DiskRoom
from .disk_stats import DiskStats
from .put_queue import PutQueue
from .records import HEADER_BYTES
from .segment_files import Loaded, SegmentFiles, Write, is_full, newest
from .slots import SEGMENT_HEADER_BYTES, Place, Segment, segment_bytes_for, slot_bytes_for

if TYPE_CHECKING:
    from ..eviction.policy import EvictionPolicy
    from .access_history import AccessHistory
    from .directory import Directory
    from .threads import Threads

BATCH_S = 0.1
BATCH_BYTES = 8 * 1024 * 1024
SYNC_S = 2.0
QUEUE_BYTES_MAX = 32 * 1024 * 1024
READS_MAX = 4  # SD cards and eMMC answer two to four requests at once, and a get waits for one
RETRY_S = 30.0
ENTRY_SHARE_MAX = 4  # an entry takes at most a quarter of the capacity
HISTORY_SHARE = 64  # and the access history, old and new together, a 64th
SAVE_HISTORY_S = 300.0

_log = logging.getLogger(__name__)


class DiskStore:
    """Entries under their packed keys, from `start` to `close`. Not to be used from another thread or event loop."""

    def __init__(
        self,
        open_directory: Callable[[], Directory],
        capacity_bytes: int,
        policy: Callable[[], EvictionPolicy[bytes]],
        *,
        threads: Threads,
        entries_max: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.trouble: str | None = None
        """What is wrong with the disk; None when nothing is."""
        self.stats = DiskStats()
        self._open_directory = open_directory
        self._threads = threads
        self._now = now
        self._files: SegmentFiles | None = None
        self._room: DiskRoom | None = None
        history_bytes = capacity_bytes // HISTORY_SHARE
        self._index = DiskIndex(
            capacity_bytes - history_bytes, policy(), entries_max, uses_max=history_bytes // (2 * USE_BYTES_MAX)
        )
        self._set_aside_bytes = 0
        self._reading = asyncio.Semaphore(READS_MAX)
        self._queue = PutQueue()
        self._dirty: dict[int, None] = {}  # segments written to since the last sync
        self._synced = 0
        self._synced_at = 0.0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._saved_at = 0.0
        self._history_bytes = 0
        self._is_loaded = asyncio.Event()
        self._retry_at = 0.0
        self._is_full = False
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    # -- start --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load what is there. Never raises for the disk's sake: what fails is `trouble`, and tried again."""
        self._task = asyncio.ensure_future(self._live())

    async def ready(self) -> None:
        """Wait until it is known what is there. Until then nothing is, and nothing is taken."""
        await self._is_loaded.wait()

    async def _live(self) -> None:
        await self._load()
        self._is_loaded.set()
        self._synced_at = self._saved_at = self._now()
        await self._keep_writing()

    async def _load(self) -> None:
        try:
            found = await self._threads.write(_loaded, self._open_directory, self._index.slots.capacity_bytes)
        except OSError as error:
            self._cannot("be opened", error)
            return
        self._files = found.files
        self._room = DiskRoom(
            self._index, found.files, self._threads, self.stats,
            on_trouble=self._cannot, on_deleted=lambda segment: self._dirty.pop(segment, None),
        )  # fmt: skip
        self._set_aside_bytes = found.files.set_aside_bytes()
        self._index.load(found.segments, found.kept, found.stale)
        self._index.recall(found.uses)
        _log.info("%d features on disk, %d bytes", len(self), self.used_bytes)

    # -- what can be told without the disk ----------------------------------------------------------------------

    @property
    def on_drop(self) -> Callable[[bytes], None] | None:
        """Hears of each entry that is here no more."""
        return self._index.on_drop

    @on_drop.setter
    def on_drop(self, hears: Callable[[bytes], None] | None) -> None:
        self._index.on_drop = hears

    @property
    def used_bytes(self) -> int:
        """What the features on it take."""
        return self._index.slots.occupied_bytes

    @property
    def file_bytes(self) -> int:
        """What the store's files take on disk: they are allocated whole, and kept when what they held has gone."""
        return self._index.slots.held_bytes + self._set_aside_bytes + self._history_bytes

    @property
    def queued_bytes(self) -> int:
        """What was put and is not written yet."""
        return self._queue.nbytes

    @property
    def evictions(self) -> int:
        """Entries that went for others."""
        return self._index.evictions

    @property
    def history(self) -> AccessHistory:
        """Which entries were used lately."""
        return self._index.history

    def __len__(self) -> int:
        return len(self._index.entries)

    def __contains__(self, key: object) -> bool:
        put = self._queue.get(key)
        return put.data is not None if put is not None else key in self._index.entries

    def __iter__(self) -> Iterator[bytes]:
        return iter([key for key in dict.fromkeys([*self._index.entries, *self._queue]) if key in self])

    def keys_of_image(self, digest: bytes) -> list[bytes]:
        """Every key of the image `digest`."""
        queued = [key for key in self._queue if key.startswith(digest)]  # of one batch or two: there are never many
        return [key for key in dict.fromkeys([*self._index.keys_of_image(digest), *queued]) if key in self]

    def by_worth(self) -> list[bytes]:
        """The keys on disk, the most valuable first."""
        return self._index.by_worth()

    def uses(self) -> Iterator[bytes]:
        """The keys as they were used lately, the oldest use first."""
        return self._index.uses()

    def touch(self, key: bytes) -> None:
        """`key` was used, here or in memory, so it is worth keeping. One that is not here is no news."""
        if (put := self._queue.get(key)) is not None:
            put.was_used = True  # the policy does not know it yet
        self._index.touch(key, self._now())

    # -- get ----------------------------------------------------------------------------------------------------

    async def get(self, key: bytes) -> memoryview | None:
        """The data of `key`, checked; None when it is not here. No use of it: see `touch`. CorruptPayload, OSError."""
        for _ in range(2):  # the entry may be moved while it is read
            if (put := self._queue.get(key)) is not None:
                return put.data
            entry = self._index.entries.get(key)
            if entry is None or self._files is None:
                return None
            try:
                async with self._reading:
                    data = await self._threads.read(
                        self._files.read, entry.place, key, entry.sequence, entry.data_bytes
                    )
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                data = None  # a bad block
            if self._index.entries.get(key) is not entry or key in self._queue:
                continue  # its slot may have been written over: whatever was read proves nothing
            if data is None:
                self.stats.corrupt += 1
                self.remove(key)
                raise CorruptPayload("what is on disk has rotted, or cannot be read")
            self.stats.read_bytes += len(data)
            return data
        return None

    # -- put, remove, flush -------------------------------------------------------------------------------------

    def put(self, key: bytes, data: memoryview) -> bool:
        """Keep `data`, which must not change until it is written; False when it is too large or cannot be taken now."""
        takes = self._files is not None and not self._is_closing and (self.trouble is None or self._is_full)
        has_room = not self._queue.nbytes or self._queue.nbytes + len(data) <= QUEUE_BYTES_MAX
        if not (takes and has_room and self.fits(len(data))):
            self.stats.dropped += 1
            return False
        self._enqueue(key, data)
        return True

    def remove(self, key: bytes) -> bool:
        """Forget `key`; False when it was not here."""
        if key not in self:
            return False
        self._enqueue(key, None)
        return True

    def remove_image(self, digest: bytes) -> int:
        """Forget every key of an image; how many were here."""
        return sum(self.remove(key) for key in self.keys_of_image(digest))

    def fits(self, data_bytes: int) -> bool:
        """Whether an entry of so many bytes is ever taken."""
        largest = max(self.capacity_bytes // ENTRY_SHARE_MAX, segment_bytes_for(self.capacity_bytes))
        return SEGMENT_HEADER_BYTES + slot_bytes_for(HEADER_BYTES + data_bytes) <= largest

    async def flush(self, key: bytes | None = None) -> bool:
        """Wait until all that was put and removed before is synced. Whether `key` is then on disk; or all is well."""
        number = self._queue.accepted
        if self._synced < number and self._task is not None and not self._task.done():
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((number, done))
            self._work.set()
            self._hurry.set()
            await done
        return self.trouble is None if key is None else self._index.is_synced(key) and key in self

    async def close(self) -> None:
        """Write and sync what waits, and let go of the files."""
        if self._is_closing:
            return
        self._is_closing = True
        self._work.set()
        self._hurry.set()
        if self._task is not None:
            await self._task
        if self._files is not None:
            await self._threads.write(self._files.close)
        self._threads.close()

    def _enqueue(self, key: bytes, data: memoryview | None) -> None:
        self._queue.add(key, data)
        self._work.set()
        if self._queue.nbytes >= BATCH_BYTES:
            self._hurry.set()

    # -- the writer ---------------------------------------------------------------------------------------------

    async def _keep_writing(self) -> None:
        while self._has_work or not self._is_closing:
            await self._rest()
            if self.trouble is not None and self._now() >= self._retry_at:
                await self._try_again()
            if self._files is None:
                self.stats.dropped += self._queue.clear()
                if self._is_closing:
                    break
            while self._has_writes:
                await self._write_batch()
            if self._dirty and (self._hurry.is_set() or self._now() - self._synced_at >= SYNC_S):
                await self._sync()
            elif not self._dirty:
                self._synced = self._queue.written
            self._answer_waiting()
            if self._files is not None and (self._is_closing or self._now() - self._saved_at >= SAVE_HISTORY_S):
                await self._save_history()

    async def _save_history(self) -> None:
        assert self._files is not None
        self._saved_at = self._now()
        packed = self._index.history.packed()
        try:
            await self._threads.write(self._files.save_history, packed)
        except OSError as error:
            self._cannot("be written to", error)
        else:
            self._history_bytes = len(packed)

    @property
    def _has_writes(self) -> bool:
        return bool(self._queue or (self._index.to_erase and self.trouble is None))

    @property
    def _has_work(self) -> bool:
        return bool(self._dirty or self._has_writes)

    async def _rest(self) -> None:
        """Until a batch has gathered, a sync is due, somebody waits for one, or the disk is to be tried again."""
        if not (self._has_work or self._waiting or self._is_closing):
            self._work.clear()
            due = self._saved_at + SAVE_HISTORY_S if self.trouble is None else self._retry_at
            await _until(self._work, max(0.0, due - self._now()))
        if not (self._waiting or self._is_closing):
            self._hurry.clear()
            if self._queue.nbytes < BATCH_BYTES:
                await _until(self._hurry, BATCH_S)

    async def _write_batch(self) -> None:
        """Give what waits longest its slots, write it, and count it in."""
        assert self._files is not None
        assert self._room is not None
        taken = self._queue.batch(min(BATCH_BYTES, self.capacity_bytes // 8))
        batch: list[tuple[bytes, Entry]] = []
        writes: list[Write] = []
        for key, put in taken:
            if put.data is not None:
                place = await self._room.place(key, len(put.data), writes, can_grow=not self._is_full)
            else:
                place = None
            if put.data is None or place is None:
                self._index.drop(key)  # an old entry must not answer after a new one was acknowledged
                self.stats.dropped += put.data is not None
                continue
            entry = Entry(place, len(put.data), self._index.next_sequence())
            batch.append((key, entry))
            writes.append(Write(place, entry.sequence, key, put.data))
        self._index.taken(write.place for write in writes)
        erase, self._index.to_erase = self._index.to_erase, []
        self._dirty.update(dict.fromkeys(place.segment for place in (*(write.place for write in writes), *erase)))
        try:
            await self._threads.write(self._files.write, writes, erase)
        except OSError as error:
            self._cannot("be written to", error)
            self._index.to_erase.extend(erase)  # once the disk works again
            self._index.release(entry.place for _, entry in batch)
            for key, _ in batch:
                self._index.drop(key)
            self.stats.dropped += len(batch)
        else:
            for key, entry in batch:
                self._index.admit(key, entry, self._now())
                self.stats.written_bytes += entry.data_bytes
        for key, put in taken:
            if put.was_used:
                self._index.touch(key, self._now())
            self._queue.done(key, put)

    async def _sync(self) -> None:
        assert self._files is not None
        written = self._queue.written
        dirty, self._dirty = self._dirty, {}
        unsynced, replaced = self._index.begin_sync()
        self._synced_at = self._now()
        try:
            await self._threads.write(self._files.sync, dirty)
        except OSError as error:
            self._cannot("be synced", error)
            # The kernel may have dropped what it could not write, and would say nothing the next time.
            for key, entry in unsynced.items():
                if self._index.entries.get(key) is entry:
                    self._index.drop(key)
        self._index.release(replaced)
        self._synced = written
        self.stats.syncs += 1

    def _answer_waiting(self) -> None:
        for number, done in self._waiting:
            if number <= self._synced and not done.done():
                done.set_result(None)
        self._waiting = [(number, done) for number, done in self._waiting if number > self._synced]

    # -- trouble ------------------------------------------------------------------------------------------------

    def _cannot(self, what: str, error: OSError) -> None:
        told = f"the disk store cannot {what}: {error.strerror or error}"
        if self.trouble is None:
            _log.error("degraded: %s; tried again every %.0f s", told, RETRY_S)
            self._retry_at = self._now() + RETRY_S
        self.trouble = told
        self._is_full = is_full(error)
        self._work.set()

    async def _try_again(self) -> None:
        self._retry_at = self._now() + RETRY_S
        if self._files is None:
            self.trouble = None
            await self._load()
        else:
            try:
                await self._threads.write(self._files.probe, segment_bytes_for(self.capacity_bytes))
            except OSError:
                return
            self.trouble = None
        if self.trouble is None:
            self._is_full = False
            _log.warning("the disk store works again")

    def check(self) -> None:
        """Assert that the bookkeeping agrees with what is held."""
        sizes = self.used_bytes, self.file_bytes, self.capacity_bytes
        assert sizes[0] <= sizes[1] <= sizes[2], sizes
        self._queue.check()
        if not self._queue:
            self._index.check()


class _Found(NamedTuple):
    files: SegmentFiles
    segments: list[Segment]
    kept: list[Loaded]
    stale: list[Place]
    uses: list[int]


def _loaded(open_directory: Callable[[], Directory], capacity_bytes: int) -> _Found:
    directory = open_directory()
    try:
        files = SegmentFiles(directory)
        segments, found = files.load(capacity_bytes)
        kept, stale = newest(found, files)
        return _Found(files, segments, kept, stale, files.load_history())
    except BaseException:
        directory.close()
        raise


async def _until(event: asyncio.Event, timeout_s: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
