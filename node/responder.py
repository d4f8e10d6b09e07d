"""What a node answers to a peer. Every answer is at hand at once: a peer's question never waits for a third."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..protocol import messages, payload
from ..protocol.connection import BLOB_BYTES_MAX
from ..protocol.errors import CorruptPayload, RemoteProtocolError
from ..protocol.frames import Buffer
from ..protocol.keys import DIGEST_BYTES, PACKED_KEY_BYTES

if TYPE_CHECKING:
    from ..protocol.messages import Hello, Message
    from .gossip import Gossip
    from .lookup import Lookup
    from .membership import Membership
    from .stats import Stats
    from .store.memory import MemoryStore
    from .versions import Versions


class Answer(NamedTuple):
    """A message, and the buffers of its blob with their size together."""

    message: Message
    blob: Sequence[Buffer] = ()
    blob_bytes: int = 0


_MISSING = Answer(messages.Missing())
_FOUND = messages.Found()


class Responder:
    """Answers the requests of all peers. RemoteProtocolError when a peer asks what no correct peer asks."""

    def __init__(
        self,
        *,
        store: MemoryStore,
        lookup: Lookup,
        membership: Membership,
        gossip: Gossip,
        versions: Versions,
        stats: Stats,
        now: Callable[[], float],
        heard_state: Callable[[messages.State], None],
    ) -> None:
        self._store = store
        self._lookup = lookup
        self._membership = membership
        self._gossip = gossip
        self._versions = versions
        self._stats = stats
        self._now = now
        self._heard_state = heard_state

    def answer(self, peer: Hello, request: Message, blob: memoryview) -> Answer:
        """The answer to `peer`'s `request`, whose blob is `blob`."""
        match request:
            case messages.Get():
                return self._get(request.key)
            case messages.BatchGet():
                return self._batch(_checked(request.keys))
            case messages.Has():
                return Answer(messages.Held(bytes(key in self._store for key in _checked(request.keys))))
            case messages.Put():
                return self._put(request, blob)
            case messages.Forget():
                return Answer(messages.Done(self._lookup.forget_here(_checked(request.names, images=True))))
            case messages.Ping():
                return Answer(messages.Ack(self._gossip.digest(), self._store.used_bytes))
            case messages.GetState():
                return Answer(self._gossip.state())
            case messages.State():
                self._heard_state(request)
                return Answer(messages.Done(1))
            case messages.Leave():
                self._membership.left(self._now(), peer.id, peer.boot)
                return Answer(messages.Done(1))
            case _:
                raise RemoteProtocolError(f"{type(request).__name__} is not a request")

    def _get(self, key: bytes) -> Answer:
        held = self._store.get(key)
        if held is None:
            return _MISSING
        size = held.nbytes
        self._stats.bytes_out += size
        return Answer(_FOUND, (held.data,), size)

    def _batch(self, keys: Sequence[bytes]) -> Answer:
        sizes, blob, total = [], [], 0
        for key in keys:
            held = self._store.get(key)
            size = held.nbytes if held is not None else 0
            if held is None:
                sizes.append(messages.NOT_HERE)
            elif total + size > BLOB_BYTES_MAX:
                sizes.append(messages.DID_NOT_FIT)
            else:
                sizes.append(size)
                blob.append(held.data)
                total += size
        self._stats.bytes_out += total
        return Answer(messages.Batch(sizes), blob, total)

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


def _checked(names: Sequence[bytes], *, images: bool = False) -> Sequence[bytes]:
    """`names`, when they are as many and as long as names may be."""
    if len(names) > messages.KEYS_MAX:
        raise RemoteProtocolError(f"{len(names)} keys at once, at most {messages.KEYS_MAX}")
    lengths = {PACKED_KEY_BYTES, DIGEST_BYTES} if images else {PACKED_KEY_BYTES}
    for name in names:
        if len(name) not in lengths:
            raise RemoteProtocolError(f"key of {len(name)} bytes: {' or '.join(map(str, sorted(lengths)))} expected")
    return names
