"""The memory tier: payloads by key, bounded in bytes; the eviction policy says who goes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ...protocol.errors import InvalidValue
from ...protocol.frames import uninitialized
from ...protocol.keys import DIGEST_BYTES
from ..eviction.feature_sketch import sketch
from ..eviction.policy import NO_FACTS, Ranking, Sketching, Telling

if TYPE_CHECKING:
    from ...protocol.payload import Payload
    from ..eviction.policy import EvictionPolicy, Facts

# What an entry costs besides its payload on the heap: Payload, memoryview, key, and a policy's record of it.
ENTRY_OVERHEAD_BYTES = 700
# With so much of the capacity between entries, small ones are moved before anything is evicted. A 64th is spare.
FRAGMENTED_SHARE = 1 / 40
# Of what is evicted and still being sent, so much at most: a peer that reads slowly must not empty the store.
PINNED_SHARE_MAX = 0.5
# Sketches are of so many tokens: of 196 × 768 that takes a third of the time that all of them take.
SKETCHED_TOKENS = 16


class Room(Protocol):
    """Where payloads lie: `Heap`, or `arena.Arena`."""

    spare_share: float
    """The share of the capacity that is kept free for what arrives."""
    capacity_bytes_max: int
    """What a store's capacity may grow to."""
    entry_bytes: int
    """What an entry takes besides its payload."""

    @property
    def used_bytes(self) -> int:
        """Bytes of what lies here, also of what the store does not hold any more and others still look at."""

    @property
    def resident_bytes(self) -> int:
        """Bytes of memory that it takes."""

    def footprint(self, payload: Payload) -> int:
        """How many bytes `payload` takes here."""

    def place(self, payload: Payload, resident_max: int) -> Payload | None:
        """`payload` as it lies here from now on; None if more than `resident_max` bytes would be resident then."""

    def arriving(self, size: int, resident_max: int) -> memoryview:
        """Where `size` bytes may be received that will be placed here if they are good."""

    def moved(self, payload: Payload) -> Payload | None:
        """`payload` at another place, so that memory can be given back where it was; None where that does not help."""

    def sparse(self) -> list[bytes]:
        """Keys of payloads that keep much memory from being given back, and would not if all of them were moved."""

    def let_go(self, payload: Payload) -> None:
        """The store does not hold `payload` any more."""

    def trim(self, resident_max: int) -> None:
        """Give memory back until `resident_max` bytes are resident, as far as nobody uses it."""

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself."""


class MemoryStore:
    """Payloads under their packed keys. What they take never exceeds `capacity_bytes`, unless that has just shrunk."""

    def __init__(self, capacity_bytes: int, policy: EvictionPolicy[bytes], room: Room | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.evicted: Counter[str] = Counter()
        """How many have gone, by the reason: `capacity`, to make room; else what `resize` and `remove` were told."""
        self.on_evict: Callable[[Payload], None] | None = None
        """Hears of each payload that was evicted."""
        self.on_change: Callable[[bytes], None] | None = None
        """Hears of each key that came or went, after the fact."""
        self._policy = policy
        self._wants_sketches = isinstance(policy, Sketching)
        self._room = room if room is not None else Heap()
        self._payloads: dict[bytes, Payload] = {}
        self._payload_bytes = 0
        self._encoders: Counter[bytes] = Counter()  # how many entries are of each, by its digest
        self._ceiling = capacity_bytes  # what may be taken now, while it shrinks to the capacity
        self._shrinks_for = ""

    def __len__(self) -> int:
        return len(self._payloads)

    def __contains__(self, key: bytes) -> bool:
        return key in self._payloads

    def __iter__(self) -> Iterator[Payload]:
        return iter(tuple(self._payloads.values()))

    @property
    def used_bytes(self) -> int:
        """Bytes that the entries take, bookkeeping included."""
        return self._payload_bytes + len(self._payloads) * self._room.entry_bytes

    @property
    def pinned_bytes(self) -> int:
        """Bytes of what is not held but still looked at, since it is being sent, or not held yet, since it arrives."""
        return self._room.used_bytes - self._payload_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of memory that all of it takes."""
        return self._room.resident_bytes + len(self._payloads) * self._room.entry_bytes

    @property
    def utilisation(self) -> float:
        """The share of the capacity that entries take."""
        return self.used_bytes / self.capacity_bytes

    def policy_told(self) -> Mapping[str, Any]:
        """What the eviction policy tells of itself."""
        return self._policy.told() if isinstance(self._policy, Telling) else {}

    @property
    def evictions(self) -> int:
        """How many have gone, for whatever reason."""
        return self.evicted.total()

    def get(self, key: bytes) -> Payload | None:
        """The payload of `key`, which counts as a use of it."""
        payload = self._payloads.get(key)
        if payload is not None:
            self._policy.hit(key)
        return payload

    def peek(self, key: bytes) -> Payload | None:
        """The payload of `key`, without counting a use."""
        return self._payloads.get(key)

    def put(self, payload: Payload, facts: Facts = NO_FACTS) -> bool:
        """Keep `payload` instead of what its key had, evicting others; False when it is larger than the whole store.

        Of the `facts` the eviction policy hears, and of the features' sketch if it wants to.
        """
        key = payload.key.packed
        self._remove(key)
        kept = self._placed(payload)
        if kept is None:
            return False
        if self._wants_sketches and facts.sketch is None:
            facts = facts._replace(sketch=sketch(kept.mean_token(SKETCHED_TOKENS)[None]))
        size = self._room.footprint(kept)
        self._payloads[key] = kept
        self._payload_bytes += size
        self._encoders[key[DIGEST_BYTES:]] += 1
        self._policy.admit(key, size + self._room.entry_bytes, facts)
        self._keep_spare()
        if self.on_change is not None:
            self.on_change(key)
        return True

    def has_room(self, payload: Payload) -> bool:
        """Whether `payload` can be put here, as far as can be told, without evicting for it, now or for the spare."""
        used_max = self._resident_max(len(self._payloads) + 1) - self._spare_bytes
        return self._room.used_bytes + self._room.footprint(payload) <= used_max

    def arriving(self, size: int) -> memoryview:
        """Where to receive `size` bytes that may be put here; nothing is evicted for what is only announced."""
        return self._room.arriving(size, self._resident_max(len(self._payloads) + 1))

    def remove(self, key: bytes, reason: str = "forgotten") -> bool:
        """Forget `key`, for that reason; False when it was not here."""
        if not self._remove(key):
            return False
        self.evicted[reason] += 1
        return True

    def by_worth(self) -> list[bytes]:
        """The keys, the most valuable first; where the policy does not say, those that came last."""
        if isinstance(self._policy, Ranking):
            return list(self._policy.by_worth())
        return list(self._payloads)[::-1]

    def keys_of_image(self, digest: bytes) -> list[bytes]:
        """Every key of the image `digest`, whichever encoder made the features."""
        return [key for encoder in self._encoders if (key := digest + encoder) in self._payloads]

    # -- another capacity ---------------------------------------------------------------------------------------

    def resize(self, capacity_bytes: int, reason: str) -> None:
        """From now on hold so many bytes. Where it holds more, it grows no further, and `settle` is needed.

        InvalidValue for more than there are addresses for. What is evicted for this is counted under `reason`.
        """
        least, most = self._room.entry_bytes, self._room.capacity_bytes_max
        if not least <= capacity_bytes <= most:
            raise InvalidValue(f"memory of {capacity_bytes} bytes: between {least} and {most}")
        self._ceiling = max(capacity_bytes, self.resident_bytes)
        self.capacity_bytes = capacity_bytes
        self._shrinks_for = reason
        self._policy.resize(capacity_bytes)

    def settle(self, steps_max: int = 64) -> bool:
        """Evict, and give memory back, in at most so many steps; whether what is held is within the capacity."""
        room = self._room
        for _ in range(steps_max):
            resident_max = self._resident_max(len(self._payloads), self.capacity_bytes)
            room.trim(resident_max)
            if room.resident_bytes <= resident_max or not self._payloads:  # without entries, what is left is being sent
                break
            # A little more than is needed: what is moved together still shares a page here and there.
            if room.used_bytes > resident_max - resident_max // 32 or not self._wins_by_moving(resident_max):
                self._evict(self._shrinks_for)
        self._ceiling = max(self.capacity_bytes, self.resident_bytes)
        return self._ceiling == self.capacity_bytes

    def _wins_by_moving(self, resident_max: int) -> bool:
        """Move some entries together; whether memory could be given back for that."""
        before = self._room.resident_bytes
        if not self._move_together():
            return False
        self._room.trim(resident_max)
        return self._room.resident_bytes < before

    # -- inside -------------------------------------------------------------------------------------------------

    def _resident_max(self, entries: int, capacity_bytes: int | None = None) -> int:
        """What so many entries leave of the capacity for their payloads."""
        return (self._ceiling if capacity_bytes is None else capacity_bytes) - entries * self._room.entry_bytes

    def _placed(self, payload: Payload) -> Payload | None:
        room = self._room
        if room.footprint(payload) + room.entry_bytes > self.capacity_bytes:
            return None
        may_move = True
        while (kept := room.place(payload, self._resident_max(len(self._payloads) + 1))) is None:
            if not self._payloads or self._is_pinned():
                return None
            if may_move and self._is_fragmented() and self._move_together():
                may_move = False  # once for each eviction: what is in use by others cannot be moved away
                continue
            self._evict("capacity")
            may_move = True
        return kept

    def _is_fragmented(self) -> bool:
        """Whether so much lies between entries that it pays to move some."""
        resident_max = self._resident_max(len(self._payloads))
        return resident_max - self._room.used_bytes > FRAGMENTED_SHARE * self.capacity_bytes

    def _move_together(self) -> bool:
        """Move small entries of one place where they are few; whether any was."""
        has_moved = False
        for key in self._room.sparse():
            payload = self._payloads.get(key)
            if payload is None:
                continue
            if (moved := self._room.moved(payload)) is not None:
                self._payloads[key] = moved
                has_moved = True
        return has_moved

    @property
    def _spare_bytes(self) -> int:
        return int(self._room.spare_share * self.capacity_bytes)

    def _keep_spare(self) -> None:
        """Evict a few at once when less than half of the spare is left."""
        used_max = self._resident_max(len(self._payloads)) - self._spare_bytes
        if self._room.used_bytes <= used_max + self._spare_bytes // 2:
            return
        while len(self._payloads) > 1 and self._room.used_bytes > used_max and not self._is_pinned():
            self._evict("capacity")

    def _is_pinned(self) -> bool:
        """Whether evicting does not help, since too much of what was evicted is still being sent."""
        return self.pinned_bytes > PINNED_SHARE_MAX * self.capacity_bytes

    def _remove(self, key: bytes) -> bool:
        if key not in self._payloads:
            return False
        self._policy.remove(key)
        self._drop(key)
        return True

    def _evict(self, reason: str) -> None:
        evicted = self._drop(self._policy.evict())
        self.evicted[reason] += 1
        if self.on_evict is not None:
            self.on_evict(evicted)

    def _drop(self, key: bytes) -> Payload:
        payload = self._payloads.pop(key)
        self._payload_bytes -= self._room.footprint(payload)
        self._room.let_go(payload)
        encoder = key[DIGEST_BYTES:]
        self._encoders[encoder] -= 1
        if not self._encoders[encoder]:
            del self._encoders[encoder]
        if self.on_change is not None:
            self.on_change(key)
        return payload

    def check(self) -> None:
        """Assert that the bookkeeping agrees with what is held."""
        held = sum(self._room.footprint(payload) for payload in self._payloads.values())
        assert self._payload_bytes == held <= self._room.used_bytes, (self._payload_bytes, held, self._room.used_bytes)
        assert self.resident_bytes <= self._ceiling, (self.resident_bytes, self._ceiling)
        assert len(self._policy) == len(self._payloads)
        assert self._encoders == Counter(key[DIGEST_BYTES:] for key in self._payloads)
        self._policy.check()
        self._room.check()


class Heap:
    """A room for payloads that stay wherever they lie; for tests, and for simulations whose payloads share bytes."""

    spare_share = 0.0
    capacity_bytes_max = sys.maxsize
    entry_bytes = ENTRY_OVERHEAD_BYTES

    def __init__(self) -> None:
        self.used_bytes = 0

    @property
    def resident_bytes(self) -> int:
        """What is used."""
        return self.used_bytes

    def footprint(self, payload: Payload) -> int:
        """Its own size."""
        return payload.nbytes

    def place(self, payload: Payload, resident_max: int) -> Payload | None:
        """`payload` itself."""
        if self.used_bytes + payload.nbytes > resident_max:
            return None
        self.used_bytes += payload.nbytes
        return payload

    def arriving(self, size: int, resident_max: int) -> memoryview:
        """Memory of its own."""
        return uninitialized(size)

    def moved(self, payload: Payload) -> Payload | None:
        """Nothing is gained by that here."""
        return None

    def sparse(self) -> list[bytes]:
        """There is nothing between payloads."""
        return []

    def let_go(self, payload: Payload) -> None:
        """Its bytes are used no longer."""
        self.used_bytes -= payload.nbytes

    def trim(self, resident_max: int) -> None:
        """There is nothing to give back."""

    def check(self) -> None:
        """There is one number."""
        assert self.used_bytes >= 0
