"""What waits to be written to the cloud. Pure.

    put, remove …    what the node does to its features; a later word on one key takes the place of an earlier one
    take             what to write next: removals first, and never two writes at once that touch the same key
    done, failed     how it went; what failed waits again, a put for a few times only

Bounded: of puts by their bytes, of removals by their number. When puts come faster than they go, because the uplink is
slow or the cloud is out, the oldest is dropped. All that is lost is its copy in the cloud: it stays where it is on the
devices, and is encoded again, at worst, when they have all evicted it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ...protocol.keys import DIGEST_BYTES, PACKED_KEY_BYTES

# 200 payloads of 151 KB: 13 minutes of a camera that sees something new each 4 s.
PUTS_BYTES_MAX = 32 * 1024 * 1024
PUTS_MEMORY_SHARE = 1 / 8
REMOVALS_MAX = 16_384
REMOVALS_TOGETHER_MAX = 500  # an object store takes 1,000 in one request, and each may be two objects
PUT_ATTEMPTS_MAX = 4


class Kind(StrEnum):
    """What is to be done."""

    PUT = "put"
    REMOVE = "remove"
    REMOVE_IMAGE = "remove image"
    REMOVE_ENCODER = "remove encoder"


@dataclass(slots=True, eq=False)
class Write:
    """One thing to be done to `name`: a packed key, or the digest of an image or of an encoder's identity."""

    kind: Kind
    name: bytes
    data: memoryview | None = None
    since: float = 0.0
    """When a put was given."""
    must_replace: bool = False
    """Whether an older payload in the cloud would be wrong, not just older."""
    attempts: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the payload."""
        return len(self.data) if self.data is not None else 0

    def touches(self, other: Write) -> bool:
        """Whether the order of the two matters."""
        return _covers(self, other) or _covers(other, self)


def puts_bytes_max(memory_bytes: int) -> int:
    """What may wait on a node that keeps `memory_bytes` of features: the queue is memory beside that."""
    return min(PUTS_BYTES_MAX, int(memory_bytes * PUTS_MEMORY_SHARE))


class WriteQueue:
    """The writes that wait, and those that are under way."""

    def __init__(self, puts_bytes_max: int = PUTS_BYTES_MAX, removals_max: int = REMOVALS_MAX) -> None:
        self.dropped_puts = 0
        self.dropped_removals = 0
        self.queued_bytes = 0
        self._puts_bytes_max = puts_bytes_max
        self._removals_max = removals_max
        self._puts: OrderedDict[bytes, Write] = OrderedDict()
        self._removals: OrderedDict[tuple[Kind, bytes], Write] = OrderedDict()
        self._under_way: list[Write] = []

    def __len__(self) -> int:
        return len(self._puts) + len(self._removals) + len(self._under_way)

    # -- what the node does -------------------------------------------------------------------------------------

    def put(self, key: bytes, data: memoryview, now: float, *, must_replace: bool) -> bool:
        """Write `data`, given `now`, under `key`, some time; False when it is larger than all that may wait."""
        self._forget_put(key)
        self._removals.pop((Kind.REMOVE, key), None)
        write = Write(Kind.PUT, key, data, now, must_replace)
        if write.nbytes > self._puts_bytes_max:
            self._drop(write)
            return False
        self._puts[key] = write
        self.queued_bytes += write.nbytes
        while self.queued_bytes > self._puts_bytes_max and self._puts:
            self._drop(self._forget_put(next(iter(self._puts))))
        return key in self._puts

    def remove(self, kind: Kind, name: bytes) -> Write:
        """Remove what `name` covers, also what still waits to be put."""
        write = Write(kind, name)
        self._forget_puts(write)
        self._removals.pop((kind, name), None)
        self._removals[kind, name] = write
        self._bound_removals()
        return write

    def withdraw(self, name: bytes) -> None:
        """Put no more what waits for `name`, a key or an image; what is under way is removed when it is there."""
        whose = Write(Kind.REMOVE if len(name) == PACKED_KEY_BYTES else Kind.REMOVE_IMAGE, name)
        self._forget_puts(whose)
        if any(write.kind is Kind.PUT and _covers(whose, write) for write in self._under_way):
            self.remove(whose.kind, name)

    def pending(self, key: bytes) -> Write | None:
        """What will have become of `key` when everything is written; None when nothing here touches it."""
        if (put := self._puts.get(key)) is not None:
            return put
        for slot in _covering(key):
            if (removal := self._removals.get(slot)) is not None:
                return removal
        asked = Write(Kind.REMOVE, key)
        return next((write for write in self._under_way if write.touches(asked)), None)

    # -- what the writers do ------------------------------------------------------------------------------------

    def take(self) -> list[Write]:
        """What to write next, now under way: removals of some keys, or one other write; empty when there is none."""
        taken: list[Write] = []
        for write in self._removals.values():
            if any(write.touches(other) for other in self._under_way):
                continue
            if write.kind is Kind.REMOVE:
                taken.append(write)
            elif not taken:
                taken = [write]
                break
            if len(taken) == REMOVALS_TOGETHER_MAX:
                break
        for write in taken:
            del self._removals[write.kind, write.name]
        if not taken and (put := next(self._free_puts(), None)) is not None:
            del self._puts[put.name]
            taken = [put]
        self._under_way += taken
        return taken

    def done(self, writes: list[Write]) -> None:
        """They are written, or not worth it any more."""
        for write in writes:
            self._under_way.remove(write)
            self.queued_bytes -= write.nbytes

    def failed(self, writes: list[Write]) -> None:
        """They were not written: they wait again, before all others, unless that was a put's last attempt."""
        for write in reversed(writes):
            self._under_way.remove(write)
            write.attempts += 1
            if write.kind is not Kind.PUT:
                if not (write.kind is Kind.REMOVE and write.name in self._puts):
                    self._removals.setdefault((write.kind, write.name), write)
                    self._removals.move_to_end((write.kind, write.name), last=False)
                    self._bound_removals()
                continue
            is_overtaken = write.name in self._puts or any(slot in self._removals for slot in _covering(write.name))
            if is_overtaken or write.attempts >= PUT_ATTEMPTS_MAX:
                self.queued_bytes -= write.nbytes
                if not is_overtaken:
                    self._drop(write)
            else:
                self._puts[write.name] = write
                self._puts.move_to_end(write.name, last=False)

    def check(self) -> None:
        """Assert that the bookkeeping agrees with what is held."""
        held = [*self._puts.values(), *self._under_way]
        assert self.queued_bytes == sum(write.nbytes for write in held), (self.queued_bytes, held)
        assert len(self._removals) <= self._removals_max
        for at, write in enumerate(self._under_way):
            assert not any(write.touches(other) for other in self._under_way[at + 1 :])

    # -- inside -------------------------------------------------------------------------------------------------

    def _free_puts(self) -> Iterator[Write]:
        """The puts that no other write has to come before."""
        for put in self._puts.values():
            is_free = not any(put.touches(other) for other in self._under_way)
            if is_free and not any(slot in self._removals for slot in _covering(put.name)):
                yield put

    def _forget_put(self, key: bytes) -> Write | None:
        write = self._puts.pop(key, None)
        if write is not None:
            self.queued_bytes -= write.nbytes
        return write

    def _forget_puts(self, removal: Write) -> None:
        covered = [removal.name] if removal.kind is Kind.REMOVE else list(self._puts)
        for key in covered:
            if key in self._puts and _covers(removal, self._puts[key]):
                self._forget_put(key)

    def _bound_removals(self) -> None:
        while len(self._removals) > self._removals_max:
            self._removals.popitem(last=False)
            self.dropped_removals += 1

    def _drop(self, write: Write | None) -> None:
        assert write is not None
        self.dropped_puts += 1
        if write.must_replace:  # better nothing than what was there before
            self.remove(Kind.REMOVE, write.name)


def _covers(removal: Write, write: Write) -> bool:
    """Whether what `write` is about is part of what `removal` removes; a put covers its own key."""
    match removal.kind:
        case Kind.REMOVE_IMAGE:
            return write.name[:DIGEST_BYTES] == removal.name and write.kind is not Kind.REMOVE_ENCODER
        case Kind.REMOVE_ENCODER:
            return write.name[-DIGEST_BYTES:] == removal.name and write.kind is not Kind.REMOVE_IMAGE
    return write.name == removal.name and len(write.name) == PACKED_KEY_BYTES


def _covering(key: bytes) -> tuple[tuple[Kind, bytes], ...]:
    """Every removal that would cover `key`."""
    return (
        (Kind.REMOVE, key),
        (Kind.REMOVE_IMAGE, key[:DIGEST_BYTES]),
        (Kind.REMOVE_ENCODER, key[DIGEST_BYTES:]),
    )
