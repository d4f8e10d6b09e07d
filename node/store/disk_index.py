"""What the disk tier knows of its entries without asking the disk: where they lie, and which goes next. Pure.

Of a key that is put again the old record stays in its slot until the new one is synced, and of whatever else leaves a
slot the header is wiped (`to_erase`): an entry that was evicted and then forgotten must not be back after a restart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...protocol.keys import DIGEST_BYTES
from .access_history import USES_MAX, AccessHistory
from .slots import Place, Segment, Slots

if TYPE_CHECKING:
    from ..eviction.policy import EvictionPolicy
    from .segment_files import Loaded

# What an entry costs in memory: key, entry, slot, dictionary, and S3-FIFO's own record (726 measured; 599 with LRU).
ENTRY_MEMORY_BYTES = 750


@dataclass(slots=True, eq=False)
class Entry:
    """Where the record of a key lies."""

    place: Place
    data_bytes: int
    sequence: int


class DiskIndex:
    """The entries of one store, at most `entries_max`, in slots of segments of at most `capacity_bytes`."""

    def __init__(
        self, capacity_bytes: int, policy: EvictionPolicy[bytes], entries_max: int, uses_max: int = USES_MAX
    ) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.slots = Slots(capacity_bytes)
        self.history = AccessHistory(uses_max=uses_max)
        self.evictions = 0
        self.on_drop: Callable[[bytes], None] | None = None
        """Hears of each key that is here no more."""
        self.to_erase: list[Place] = []
        """Free slots whose headers are still to be wiped."""
        self._policy = policy
        self._entries_max = entries_max
        self._sequence = 0
        self._encoders: Counter[bytes] = Counter()  # how many entries are of each, by its digest
        # Since the last sync: entries made, and old records of keys that were put again.
        self._unsynced: dict[bytes, Entry] = {}
        self._replaced: dict[bytes, list[Place]] = {}

    def load(self, segments: Iterable[Segment], kept: Iterable[Loaded], stale: Iterable[Place]) -> None:
        """Take in what was found on disk: records of different keys, oldest first, and such as are to be wiped."""
        for segment in segments:
            self.slots.add(segment)
        for place, (key, sequence, data_bytes, _) in kept:
            self.slots.occupy(place, key)
            self.entries[key] = Entry(place, data_bytes, sequence)
            self._encoders[key[DIGEST_BYTES:]] += 1
            self._policy.admit(key, self.slots.shape(place.segment).slot_bytes)
            self._sequence = max(self._sequence, sequence)
        self.to_erase.extend(stale)
        while len(self.entries) > self._entries_max:
            self.evict()

    def recall(self, uses: Iterable[int]) -> None:
        """Tell the policy again what was used before the restart: sequence numbers, in order."""
        by_sequence = {entry.sequence: key for key, entry in self.entries.items()}
        kept = (sequence for sequence in uses if sequence in by_sequence)
        self.history = AccessHistory(kept, self.history.uses_max)
        for sequence in self.history:
            self._policy.hit(by_sequence[sequence])

    # -- questions ----------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether it may have another entry."""
        return len(self.entries) < self._entries_max

    def is_synced(self, key: bytes) -> bool:
        """Whether `key` is on disk for good."""
        return key in self.entries and key not in self._unsynced

    def keys_of_image(self, digest: bytes) -> list[bytes]:
        """Every key of the image `digest`, whichever encoder made the features."""
        return [key for encoder in self._encoders if (key := digest + encoder) in self.entries]

    def by_worth(self) -> list[bytes]:
        """The keys, the most valuable first, by their lately uses; then those without any, the newest first."""
        worth = self.history.worth()
        order = sorted(self.entries.items(), key=lambda item: (worth.get(item[1].sequence, 0.0), item[1].sequence))
        return [key for key, _ in reversed(order)]

    def uses(self) -> Iterator[bytes]:
        """The keys as they were used, the oldest use first."""
        by_sequence = {entry.sequence: key for key, entry in self.entries.items()}
        return (by_sequence[sequence] for sequence in tuple(self.history) if sequence in by_sequence)

    # -- what happens -------------------------------------------------------------------------------------------

    def touch(self, key: bytes, now: float) -> None:
        """`key` was used, here or in another tier. One that is not here is no news."""
        entry = self.entries.get(key)
        if entry is not None:
            self._policy.hit(key)
            self.history.used(entry.sequence, now)

    def next_sequence(self) -> int:
        """The number of the next record."""
        self._sequence += 1
        return self._sequence

    def admit(self, key: bytes, entry: Entry, now: float) -> None:
        """A record was written to a slot that had been taken for it."""
        old = self.entries.get(key)
        if old is None:
            self._encoders[key[DIGEST_BYTES:]] += 1
        else:
            self._policy.remove(key)
            self._replaced.setdefault(key, []).append(old.place)
        self.entries[key] = self._unsynced[key] = entry
        self._policy.admit(key, self.slots.shape(entry.place.segment).slot_bytes)
        self.history.used(entry.sequence, now)

    def move(self, key: bytes, place: Place) -> None:
        """The same record is at another place, synced."""
        old = self.entries[key]
        self.entries[key] = Entry(place, old.data_bytes, old.sequence)
        self._unsynced.pop(key, None)

    def evict(self) -> bool:
        """The entry goes that the policy names; False when there is none."""
        if not len(self._policy):
            return False
        key = self._policy.evict()
        self._forget(key)
        self.evictions += 1
        return True

    def drop(self, key: bytes) -> None:
        """The entry of `key` goes, if there is one."""
        if key in self.entries:
            self._policy.remove(key)
            self._forget(key)

    def release(self, places: Iterable[Place]) -> None:
        """These slots hold nothing that is wanted any more."""
        for place in places:
            self.slots.free(place)
            self.to_erase.append(place)

    def taken(self, places: Iterable[Place]) -> None:
        """These slots are about to be written over: what comes to them must not be wiped with what was there."""
        written = set(places)
        self.to_erase = [place for place in self.to_erase if place not in written]

    def lose_segment(self, number: int) -> None:
        """A segment is gone, whatever was wanted in it has been moved."""
        self.slots.lose(number)
        self.to_erase = [place for place in self.to_erase if place.segment != number]
        for key, places in list(self._replaced.items()):
            self._replaced[key] = [place for place in places if place.segment != number]

    def begin_sync(self) -> tuple[dict[bytes, Entry], list[Place]]:
        """What the sync that begins now makes durable, and the old records that it makes superfluous."""
        unsynced, self._unsynced = self._unsynced, {}
        replaced, self._replaced = self._replaced, {}
        return unsynced, [place for places in replaced.values() for place in places]

    def _forget(self, key: bytes) -> None:
        encoder = key[DIGEST_BYTES:]
        self._encoders[encoder] -= 1
        if not self._encoders[encoder]:
            del self._encoders[encoder]
        self.release([self.entries.pop(key).place, *self._replaced.pop(key, ())])
        self._unsynced.pop(key, None)
        if self.on_drop is not None:
            self.on_drop(key)

    def check(self, writing: int = 0) -> None:
        """Assert that the bookkeeping agrees with itself; `writing` slots are taken for entries to come."""
        assert len(self._policy) == len(self.entries) <= self._entries_max
        self._policy.check()
        self.slots.check()
        held = {place: key for segment in self.slots.segments() for place, key in self.slots.occupants(segment.number)}
        assert self._encoders == Counter(key[DIGEST_BYTES:] for key in self.entries)
        assert all(held[entry.place] == key for key, entry in self.entries.items())
        replaced = sum(map(len, self._replaced.values()))
        assert len(held) == len(self.entries) + replaced + writing, (len(held), len(self.entries), replaced, writing)
