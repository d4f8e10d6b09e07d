"""What a node answers to a peer: at once from memory, a little later from disk, and not when it is too late.

A question never waits for a third, but for one kind that asks to: Await.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..protocol import delta, messages, payload
from ..protocol.connection import BLOB_BYTES_MAX
from ..protocol.errors import CorruptPayload, RemoteProtocolError
from ..protocol.frames import Buffer
from ..protocol.keys import DIGEST_BYTES, PACKED_KEY_BYTES
from .lease import Granted, Leased
from .store.tiers import DISK_TIMEOUT_S

if TYPE_CHECKING:
    from ..protocol.messages import Hello, Message
    from ..protocol.payload import Payload
    from .gossip import Gossip
    from .journal import Journal
    from .lease_desk import LeaseDesk
    from .lookup import Lookup
    from .membership import Membership
    from .stats import Stats
    from .store.tiers import Tiers
    from .versions import Versions

# So many keys of a batch are read from disk at a time.
READS_TOGETHER = 16


class Answer(NamedTuple):
    """A message, and the buffers of its blob with their size together."""

    message: Message
    blob: Sequence[Buffer] = ()
    blob_bytes: int = 0


_MISSING = Answer(messages.Missing())
_FOUND = messages.Found()
_DIFFERENCE = messages.Difference()


class Responder:
    """Answers the requests of all peers. RemoteProtocolError when a peer asks what no correct peer asks."""

    def __init__(
        self,
        *,
        store: Tiers,
        lookup: Lookup,
        membership: Membership,
        desk: LeaseDesk,
        gossip: Gossip,
        journal: Journal,
        versions: Versions,
        stats: Stats,
        now: Callable[[], float],
        heard_state: Callable[[messages.State], None],
        heard_removed: Callable[[messages.RemovedPart], None],
        is_cloud: bool = False,
    ) -> None:
        """`is_cloud`: of a node that knows no members, and hears of none."""
        self._store = store
        self._lookup = lookup
        self._membership = membership
        self._desk = desk
        self._gossip = gossip
        self._journal = journal
        self._versions = versions
        self._stats = stats
        self._now = now
        self._heard_state = heard_state
        self._is_cloud = is_cloud
        self._heard_removed = heard_removed

    def answer(self, peer: Hello, request: Message, blob: memoryview) -> Answer | Coroutine[Any, Any, Answer]:
        """The answer to `peer`'s `request`, whose blob is `blob`; a coroutine where the disk must be read for it."""
        if self._is_cloud and request.kind not in messages.TO_CLOUD_NODE:
            raise RemoteProtocolError(f"{type(request).__name__}: this is a cloud node, which has no members")
        match request:
            case messages.Get():
                return self._get(request)
            case messages.Claim():
                return self._claim(peer.id, request)
            case messages.Await():
                return self._await(request)
            case messages.Release():
                return Answer(messages.Done(int(self._desk.release(request.key, peer.id))))
            case messages.BatchGet():
                return self._batch(_checked(request.keys), request.left_ms)
            case messages.Has():
                return Answer(messages.Held(bytes(self._has(key) for key in _checked(request.keys))))
            case messages.Put():
                return self._put(request, blob)
            case messages.Forget():
                return self._forget(request)
            case messages.Remove():
                names = _checked(request.names, {PACKED_KEY_BYTES, DIGEST_BYTES})
                return Answer(messages.AllRemoved(*self._lookup.remove_for_peer(names, request.stamp)))
            case messages.Ping():
                return Answer(messages.Ack(self._gossip.digest(), self._store.used_bytes))
            case messages.GetState():
                return Answer(self._gossip.state())
            case messages.State():
                self._heard_state(request)
                return Answer(messages.Done(1))
            case messages.RemovedSums():
                return Answer(self._gossip.removed_sums())
            case messages.RemovedPart():
                mine = self._gossip.removed_part(self._now(), request.part)
                self._heard_removed(request)
                return Answer(mine)
            case messages.GetKeys():
                keys, coded = self._journal.told(request.has)
                return Answer(keys, (coded,), len(coded))
            case messages.Leave():
                self._membership.left(self._now(), peer.id, peer.boot)
                return Answer(messages.Done(1))
            case _:
                raise RemoteProtocolError(f"{type(request).__name__} is not a request")

    def _has(self, key: bytes) -> bool:
        if key in self._store:
            return True
        self._journal.missed(key)
        return False

    def _get(self, request: messages.Get | messages.Claim) -> Answer | Coroutine[Any, Any, Answer]:
        held = self._store.get(request.key)
        if held is None:
            if self._store.is_on_disk(request.key):
                return self._get_from_disk(request)
            self._journal.missed(request.key)
            return _MISSING
        return self._found(held, request.begun, request.like)

    async def _get_from_disk(self, request: messages.Get | messages.Claim) -> Answer:
        held = await self._store.get_from_disk(request.key, self._disk_timeout_s(request.left_ms))
        return self._found(held, request.begun, request.like) if held is not None else _MISSING

    def _claim(self, peer: str, request: messages.Claim) -> Answer | Coroutine[Any, Any, Answer]:
        if request.key in self._store:
            return self._get(request)
        (key,) = _checked([request.key])
        self._journal.missed(key)
        match self._desk.claim(key, peer, request.encode_ms / 1000):
            case Granted(lease_s):
                return Answer(messages.Granted(round(lease_s * 1000)))
            case Leased(expected_s):
                return Answer(messages.Leased(round(expected_s * 1000)))

    async def _await(self, request: messages.Await) -> Answer:
        """Whoever waits has been told that the key is leased; it may have come meanwhile."""
        if (held := self._store.get(request.key)) is None:
            await self._desk.wait(request.key, request.left_ms / 1000)
            held = self._store.get(request.key)
        return self._found(held) if held is not None else _MISSING

    @staticmethod
    def _disk_timeout_s(left_ms: int) -> float:
        """What a reader waits for the disk: no longer than the answer is of use."""
        return min(DISK_TIMEOUT_S, left_ms / 1000) if left_ms else DISK_TIMEOUT_S

    def _found(self, held: Payload, begun: messages.Begun | None = None, like: messages.Like | None = None) -> Answer:
        """The payload; the rest of it for who has begun with the very same; its difference from what is `like` it."""
        size = held.nbytes
        if begun is not None and begun.size < size and held.data[: payload.SAME_BYTES] == begun.same:
            self._stats.bytes_out += size - begun.size
            return Answer(messages.Found(begun.size), (held.data[begun.size :],), size - begun.size)
        base = self._store.peek(like.key) if like is not None else None
        if base is not None and like is not None and delta.same(base) == like.same:
            told = delta.difference(base, held)
            if told is not None:
                self._stats.bytes_out += len(told)
                return Answer(_DIFFERENCE, (told,), len(told))
        self._stats.bytes_out += size
        return Answer(_FOUND, (held.data,), size)

    def _batch(self, keys: Sequence[bytes], left_ms: int) -> Answer | Coroutine[Any, Any, Answer]:
        held = [self._store.get(key) for key in keys]
        if any(here is None and self._store.is_on_disk(key) for key, here in zip(keys, held, strict=True)):
            return self._batch_from_disk(keys, held, left_ms)
        return self._batch_of(keys, held)

    async def _batch_from_disk(self, keys: Sequence[bytes], held: list[Payload | None], left_ms: int) -> Answer:
        """Read what is not in memory, for as long as what there is fits into one answer, and is of use."""
        late_at = self._now() + left_ms / 1000 if left_ms else math.inf
        total = sum(here.nbytes for here in held if here is not None)
        lacking = [at for at, here in enumerate(held) if here is None and self._store.is_on_disk(keys[at])]
        unread: set[int] = set()
        for first in range(0, len(lacking), READS_TOGETHER):
            batch = lacking[first : first + READS_TOGETHER]
            if total > BLOB_BYTES_MAX or self._now() >= late_at:
                unread.update(batch)
                continue
            timeout_s = min(DISK_TIMEOUT_S, late_at - self._now())
            reads = await asyncio.gather(*(self._store.get_from_disk(keys[at], timeout_s) for at in batch))
            for at, read in zip(batch, reads, strict=True):
                held[at] = read
                total += read.nbytes if read is not None else 0
        return self._batch_of(keys, held, unread)

    def _batch_of(self, keys: Sequence[bytes], held: Sequence[Payload | None], unread: Collection[int] = ()) -> Answer:
        sizes, blob, total = [], [], 0
        for at, here in enumerate(held):
            size = here.nbytes if here is not None else 0
            if here is None and at in unread:
                sizes.append(messages.DID_NOT_FIT)
            elif here is None:
                self._journal.missed(keys[at])
                sizes.append(messages.NOT_HERE)
            elif total + size > BLOB_BYTES_MAX:
                sizes.append(messages.DID_NOT_FIT)
            else:
                sizes.append(size)
                blob.append(here.data)
                total += size
        self._stats.bytes_out += total
        return Answer(messages.Batch(sizes), blob, total)

    def _forget(self, request: messages.Forget) -> Answer | Coroutine[Any, Any, Answer]:
        encoders = _checked(request.encoders, {DIGEST_BYTES})
        gone = self._lookup.forget_here(_checked(request.names, {PACKED_KEY_BYTES, DIGEST_BYTES}))
        return self._forget_encoders(encoders, gone) if encoders else Answer(messages.Done(gone))

    async def _forget_encoders(self, encoders: Sequence[bytes], gone: int) -> Answer:
        for encoder in encoders:
            gone += await self._store.remove_encoder(encoder)
            if self._is_cloud:  # it tells of those whose features it has
                self._versions.forget(encoder)
        return Answer(messages.Done(gone))

    def _put(self, request: messages.Put, blob: memoryview) -> Answer:
        try:
            given = payload.parse(blob)
        except CorruptPayload:
            self._stats.rejected_payloads += 1
            raise
        self._stats.bytes_in += given.nbytes
        kept = self._lookup.accept(given, age_s=max(0, request.age_ms) / 1000)
        if kept:
            self._versions.learn(given.key.encoder)
        return Answer(messages.Done(int(kept)))


def _checked(names: Sequence[bytes], lengths: Collection[int] = (PACKED_KEY_BYTES,)) -> Sequence[bytes]:
    """`names`, when they are as many and as long as names may be."""
    if len(names) > messages.KEYS_MAX:
        raise RemoteProtocolError(f"{len(names)} keys at once, at most {messages.KEYS_MAX}")
    for name in names:
        if len(name) not in lengths:
            raise RemoteProtocolError(f"key of {len(name)} bytes: {' or '.join(map(str, sorted(lengths)))} expected")
    return names
