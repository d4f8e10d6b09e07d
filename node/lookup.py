"""THE STORY: how one request for features is answered. The file to read first.

    get   1. memory has it
          2. an equal request is under way: share its answer
          3. the disk
          4. elsewhere (`search.py`): the holders that the ring names, then who else is known to have it, then the
             cloud
          5. nobody, or nobody soon enough: encode the image, if it is here and no other node is at it; or once, after
             an upgrade, old features stand in, where a map was given for that (`stand_ins.py`)
          6. leave the features with their owner and its replica, and answer

Whatever fails on the way falls through to the next step. Without an image in hand the last answer is None: not here.
With one, steps 4 and 6 are given a share of the time that step 5 takes, and no more (`cost.py`, `docs/waiting.md`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..protocol import payload as payloads
from ..protocol.errors import EncoderUnavailable, ImageError
from ..protocol.features import Source
from ..protocol.keys import PACKED_KEY_BYTES
from .copies import Copies
from .eviction.policy import NO_FACTS, Facts
from .found import Found, Reach, Stored
from .owed import Owed
from .search import CLOUD_TIMEOUT_S, FETCH_TIMEOUT_S, Question, Search
from .search_many import SearchMany
from .streams import Streams
from .tombstones import Tombstones

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..protocol.keys import FeatureKey
    from ..protocol.payload import Payload
    from .lease_desk import LeaseDesk
    from .neighbourhood import Neighbourhood
    from .removals import Removals
    from .stand_ins import StandIns
    from .stats import Stats
    from .store.tiers import Tiers
    from .versions import Versions

FORGET_TIMEOUT_S = 2.0
# After so long without an image in hand that was not in memory, the encoder is taken to be idle.
IDLE_S = 2.0
# No further reads of a request for many keys are begun after so long; a hung disk would take it for each of them.
DISK_TIMEOUT_S = 2.0
# So many keys of one request are read from disk or cloud at a time.
READS_TOGETHER = 16


class Encoder(Protocol):
    """The local encoder. Runs outside the event loop."""

    async def encode(self, image: bytes) -> NDArray[np.float32]:
        """Features (tokens, dim); ImageError for a bad image, EncoderUnavailable when it cannot run now.

        When it is cancelled, the encoder stops if it can.
        """

    @property
    def is_finishing(self) -> bool:
        """Whether it could not stop, so that the next image has to wait for one that nobody wants any more."""


class Lookup:
    """Answers requests for features on one node."""

    def __init__(
        self,
        *,
        name: str,
        store: Tiers,
        neighbourhood: Neighbourhood,
        desk: LeaseDesk,
        encoder: Encoder | None,
        versions: Versions,
        removals: Removals,
        stand_ins: StandIns,
        now: Callable[[], float],
        stats: Stats,
        pack: Callable[..., Payload] = payloads.encode,
        owed: Owed | None = None,
    ) -> None:
        """`pack` quantises what the encoder made; a simulation knows the outcome.

        `owed` hears of copies that could not be left.
        """
        self._pack = pack
        self._name = name
        self._store = store
        self._neighbourhood = neighbourhood
        self._costs = neighbourhood.costs
        self._desk = desk
        self._search = Search(neighbourhood, desk, store, name=name, now=now)
        self._search_many = SearchMany(neighbourhood, wants=self._wants, now=now)
        self._copies = Copies(neighbourhood, owed if owed is not None else Owed(), now)
        self._encoder = encoder
        self._versions = versions
        self._removals = removals
        self._stand_ins = stand_ins
        self._now = now
        self._stats = stats
        self.on_asked: Callable[[str, bytes], None] | None = None
        """Hears of each stream's requests before they are answered: what to fetch ahead is learnt from them."""
        self._encoding = 0
        self._image_at = 0.0  # when the encoder may have been wanted for anybody
        self._flights: dict[object, asyncio.Task[Found | None]] = {}
        self._streams = Streams()
        self._tombstones = Tombstones()

    # -- get ----------------------------------------------------------------------------------------------------

    async def get(
        self,
        key: FeatureKey,
        image: bytes | None = None,
        *,
        reach: Reach = Reach.ANY,
        min_fidelity: float = -1.0,
        stream: str | None = None,
        may_stand_in: bool = True,
    ) -> Found | None:
        """The features of `key`, or None when nobody holds them and they could not be made.

        Old features may stand in for them where a map was given for that; it says so (`Found.converted_from`).

        With the `image` at hand, ImageError or EncoderUnavailable when it had to be encoded and could not be. Requests
        of one `stream`, a camera or a program, follow on each other.
        """
        self._stats.requests += 1
        if stream is not None and self.on_asked is not None:
            self.on_asked(stream, key.packed)
        if (found := self._from_memory(key, min_fidelity)) is not None:
            return self._count(found)
        flight = (key.packed, image is not None, reach, min_fidelity, may_stand_in)
        if (task := self._flights.get(flight)) is not None:
            self._stats.coalesced += 1
        else:
            self._image_at = self._now() if image is not None else self._image_at
            task = asyncio.ensure_future(self._find(key, image, reach, min_fidelity, may_stand_in, self._facts(stream)))
            self._flights[flight] = task
            task.add_done_callback(lambda done: self._landed(flight, done))
        # Shielded: a caller that gives up must not take the answer from the others, nor from the cache.
        found = await asyncio.shield(task)
        return self._count(found)

    async def _find(
        self,
        key: FeatureKey,
        image: bytes | None,
        reach: Reach,
        min_fidelity: float,
        may_stand_in: bool = True,
        facts: Facts = NO_FACTS,
    ) -> Found | None:
        started = self._now()
        if (found := await self._from_disk(key, min_fidelity, facts)) is not None:
            return found
        if (waiting := self._stand_ins.renewals.pop(key)) is not None:  # asked for again: now the real ones
            image, may_stand_in = image or waiting, False
        wants = partial(self._wants, min_fidelity=min_fidelity)
        question = Question(key, wants, reach, started, self._ahead(), facts=facts)

        async def make() -> Found:
            assert image is not None
            if may_stand_in and (old := await self._stand_in(key, min_fidelity)) is not None:
                self._stand_ins.renewals.add(key, image)
                return old
            return await self._encode(key, image, min_fidelity, question)

        if image is None or not self._can_encode(key):
            found = await self._search.find(question) if reach is not Reach.LOCAL else None
            if found is None and may_stand_in:
                found = await self._stand_in(key, min_fidelity)
            if found is None and image is not None:
                raise EncoderUnavailable(
                    f"nobody holds these features, and this node does not run {key.encoder}", retry_after_s=60
                )
        elif reach is Reach.LOCAL:
            found = await make()
        else:
            found = await self._search.find_or_make(question, make)
        if found is not None and found.source is Source.PEER:
            self._keep(found.payload, started, cost_s=self._now() - started, facts=facts)
        return found

    def _from_memory(self, key: FeatureKey, min_fidelity: float) -> Found | None:
        payload = self._store.get(key.packed)
        if payload is None or payload.fidelity < min_fidelity:
            return None
        return Found(payload, Source.MEMORY, self._name)

    async def _from_disk(self, key: FeatureKey, min_fidelity: float, facts: Facts) -> Found | None:
        packed = key.packed
        if self._store.peek(packed) is not None:  # too coarse, or it came since memory was asked: from a prefetch, say
            return self._from_memory(key, min_fidelity)
        if not self._store.is_on_disk(packed):
            return None
        payload = await self._store.get_from_disk(packed, facts=facts)
        if payload is None or payload.fidelity < min_fidelity:
            return None
        return Found(payload, Source.DISK, self._name)

    def _can_encode(self, key: FeatureKey) -> bool:
        """Whether what this node's encoder makes is what was asked for."""
        return self._encoder is not None and key.encoder == self._versions.own

    def _ahead(self) -> int:
        """How many images an encode that begins now would be behind; one that nobody wants any more may be first."""
        if self._encoder is None:
            return 0
        return self._encoding or int(self._encoder.is_finishing)

    async def _encode(self, key: FeatureKey, image: bytes, min_fidelity: float, question: Question) -> Found:
        assert self._encoder is not None
        began, knows = self._now(), self._removals.known(key)
        ahead = self._ahead()
        self._encoding += 1
        try:
            array = await self._encoder.encode(image)
        except Exception:
            self._stats.encode_failures += 1
            raise
        finally:
            self._encoding -= 1
        took_s = self._now() - began
        self._costs.encoded(took_s, ahead)
        self._stats.encodes += 1
        payload = self._pack(array, key, min_fidelity=max(min_fidelity, payloads.FIDELITY_USUAL)).knowing(knows)
        self._keep(payload, question.started, is_new=True, cost_s=took_s, facts=question.facts)
        question.made()
        if question.reach is not Reach.LOCAL:
            await self._copies.leave_soon(payload, question.started, self._costs.copy_wait_s(ahead))
        return Found(payload, Source.ENCODER, self._name)

    async def _stand_in(self, key: FeatureKey, min_fidelity: float) -> Found | None:
        found = await self._stand_ins.find(key, min_fidelity)
        if found is None or not self._may_answer(found.payload):
            return None
        self._stats.converted += 1
        return found

    async def renew(self) -> None:
        """Encode what old features stood in for, image after image, for as long as nobody wants the encoder."""
        while not self._encoding and self._now() - self._image_at >= IDLE_S:
            if (waiting := self._stand_ins.renewals.take()) is None:
                return
            with contextlib.suppress(ImageError, EncoderUnavailable):
                await self._find(*waiting, Reach.ANY, -1.0, may_stand_in=False)

    async def fetch_ahead(self, key: bytes) -> int:
        """Bring `key` into memory from wherever it is, for a request to come; how many bytes it has, 0 for nowhere.

        Counts neither as a request nor as a hit. Asks the ring's holders, and nobody beyond them but the cloud.
        """
        started = self._now()
        payload = await self._store.get_from_disk(key)
        near = self._neighbourhood
        for node in filter(near.may_ask, [*near.holders(key), *near.believed(key)] if payload is None else ()):
            reply = await self._neighbourhood.get(node, key, FETCH_TIMEOUT_S)
            payload = reply.payload if reply is not None else None
            if payload is not None and self._keep(payload, started, cost_s=self._now() - started):
                break
            payload = None
        if payload is None:
            payload = await self._store.get_from_cloud(key, CLOUD_TIMEOUT_S)
        return payload.nbytes if payload is not None else 0

    def _landed(self, flight: object, task: asyncio.Task[Found | None]) -> None:
        del self._flights[flight]
        if not task.cancelled():
            task.exception()  # seen, even when every caller has gone

    def _count(self, found: Found | None) -> Found | None:
        if found is None or found.source is Source.ENCODER:
            self._stats.misses += 1
        else:
            self._stats.hits[found.source] += 1
        return found

    async def get_many(
        self,
        keys: Sequence[FeatureKey],
        *,
        reach: Reach = Reach.ANY,
        min_fidelity: float = -1.0,
        stream: str | None = None,
    ) -> dict[FeatureKey, Found]:
        """Those of `keys` that somebody holds, so true; each holder is asked once for all that it should have."""
        facts = self._facts(stream)
        unique = list(dict.fromkeys(keys))
        self._stats.requests += len(unique)
        found = {key: here for key in unique if (here := self._from_memory(key, min_fidelity)) is not None}
        await self._read_together(
            unique, found, partial(self._from_disk, min_fidelity=min_fidelity, facts=facts), DISK_TIMEOUT_S
        )
        if reach is not Reach.LOCAL:
            started = self._now()
            missing = [key for key in unique if key not in found]
            found |= await self._search_many.find(missing, started + FETCH_TIMEOUT_S, min_fidelity)
            for here in found.values():
                if here.source is Source.PEER:
                    self._keep(here.payload, started, cost_s=self._now() - started, facts=facts)
        if reach is Reach.ANY:
            await self._read_together(
                unique, found, partial(self._from_cloud, facts=facts, min_fidelity=min_fidelity), CLOUD_TIMEOUT_S
            )
        for key in unique:
            self._count(found.get(key))
        return {key: found[key] for key in unique if key in found}

    async def _read_together(
        self,
        keys: Sequence[FeatureKey],
        found: dict[FeatureKey, Found],
        read: Callable[[FeatureKey], Awaitable[Found | None]],
        timeout_s: float,
    ) -> None:
        """Read those of `keys` that are missing in `found`, some at a time, and add what there is."""
        missing = [key for key in keys if key not in found]
        deadline = self._now() + timeout_s
        for at in range(0, len(missing), READS_TOGETHER):
            if self._now() > deadline:
                return
            batch = missing[at : at + READS_TOGETHER]
            answers = await asyncio.gather(*(read(key) for key in batch))
            found.update((key, here) for key, here in zip(batch, answers, strict=True) if here is not None)

    # -- has, put, forget ---------------------------------------------------------------------------------------

    async def has(self, key: FeatureKey, *, reach: Reach = Reach.ANY) -> tuple[Source, str] | None:
        """Where `key` is, and the name of a node that holds it; None when nobody does. Moves no features."""
        if self._store.peek(key.packed) is not None:
            return Source.MEMORY, self._name
        if self._store.is_on_disk(key.packed):
            return Source.DISK, self._name
        if reach is not Reach.LOCAL and (node := await self._search.who_has(key.packed)) is not None:
            return Source.PEER, self._neighbourhood.peers.name(node)
        if reach is Reach.ANY and await self._store.is_in_cloud(key.packed):
            return Source.CLOUD, self._name
        return None

    def peek(self, key: FeatureKey) -> Found | None:
        """What this node has of `key` in memory; counts neither as a request nor as a use."""
        payload = self._store.peek(key.packed)
        return None if payload is None else Found(payload, Source.MEMORY, self._name)

    async def put(self, payload: Payload, *, stream: str | None = None) -> Stored:
        """Store features made elsewhere with their owner and its replica. Other nodes forget an older copy."""
        started = self._now()
        self._stats.puts += 1
        payload = payload.knowing(self._removals.known(payload.key))  # the user knows: it is given once more
        key = payload.key.packed
        holders = self._neighbourhood.ring().holders(key)
        others = [node for node in self._neighbourhood.peers.others() if node not in holders]
        forgetting = {
            node: asyncio.ensure_future(self._neighbourhood.forget(node, [key], FORGET_TIMEOUT_S)) for node in others
        }
        kept_here = self._keep(payload, started, is_new=True, facts=self._facts(stream))
        copies = await self._copies.leave(payload, started, forgetting)
        await asyncio.gather(*forgetting.values())
        return Stored(copies + kept_here, payload)

    async def make_durable(self, payload: Payload) -> bool:
        """Wait until a payload that was just answered or put would survive a power cut; False if it would not."""
        if not self._store.is_on_disk(payload.key.packed) and self._may_answer(payload):
            self._store.put(payload)
        return await self._store.flush(payload.key.packed)

    async def flush(self) -> bool:
        """Wait until what was put and forgotten here so far would survive a power cut; False if it would not."""
        return await self._store.flush()

    async def forget(self, names: Sequence[bytes]) -> int:
        """Drop keys (64 bytes) and images (32 bytes) on every member and in the cloud; how many entries went.

        Who cannot be reached now hears of it when it is back (`removals.py`).
        """
        stamp = self._removals.make(names, self._now())
        gone = self.forget_here(names)
        others = self._neighbourhood.peers.others()
        answers = await asyncio.gather(
            self._store.remove_from_cloud(names, FORGET_TIMEOUT_S),
            *(self._neighbourhood.forget(node, names, FORGET_TIMEOUT_S, stamp) for node in others),
        )
        return gone + sum(answers)

    def forget_here(self, names: Iterable[bytes]) -> int:
        """Drop keys and images on this node, and what is still on its way here for them."""
        gone = 0
        for name in names:
            self._tombstones.add(name, self._now())
            gone += self._store.remove(name) if len(name) == PACKED_KEY_BYTES else self._store.remove_image(name)
        return gone

    def remove_for_peer(self, names: Sequence[bytes], stamp: int) -> tuple[int, int]:
        """Drop for good what a member's user removes; how many entries went, and the stamp of the removal now."""
        stamp = self._removals.take_over(names, stamp, self._now())
        return self.forget_here(names), stamp

    def accept(self, payload: Payload, age_s: float) -> bool:
        """Keep what a peer put here; False when it was forgotten since its making began, is stale, or does not fit."""
        kept = self._keep(payload, self._now() - age_s)
        if kept:
            self._copies.took_in(payload)
        return kept

    async def close(self) -> None:
        """End what goes on behind answers."""
        await self._copies.close()

    # -- shared steps -------------------------------------------------------------------------------------------

    def _wants(self, payload: Payload, min_fidelity: float = -1.0) -> bool:
        """Whether what came from elsewhere may be answered: its version is current, its shape right, and so on."""
        is_current = self._versions.is_current(payload.key.encoder)
        return is_current and payload.fidelity >= min_fidelity and self._may_answer(payload)

    def _may_answer(self, payload: Payload) -> bool:
        """Whether what somebody else holds is what this node would hold: it may not have heard of a removal yet."""
        return self._versions.fits(payload) and self._removals.allows(payload)

    def _facts(self, stream: str | None) -> Facts:
        """What the eviction policy may know of what comes for a request of `stream`."""
        return Facts(stream=self._streams.number(stream)) if stream is not None else NO_FACTS

    async def _from_cloud(self, key: FeatureKey, facts: Facts, min_fidelity: float) -> Found | None:
        payload = await self._store.get_from_cloud(key.packed, CLOUD_TIMEOUT_S, facts=facts)
        if payload is None or payload.fidelity < min_fidelity:
            return None
        return Found(payload, Source.CLOUD, self._name)

    def _keep(
        self,
        payload: Payload,
        started: float,
        *,
        is_new: bool = False,
        cost_s: float | None = None,
        facts: Facts = NO_FACTS,
    ) -> bool:
        """Keep what was not forgotten since its making `started`; `cost_s` is what it took to come by, if known."""
        if self._tombstones.forbids(payload.key, started) or not self._versions.is_current(payload.key.encoder):
            return False
        self._removals.saw(payload)
        if cost_s is not None:
            facts = facts._replace(cost_ms=1000 * cost_s)
        is_kept = self._may_answer(payload) and self._store.put(payload, is_new=is_new, facts=facts)
        if is_kept:
            self._desk.made(payload.key.packed)
        return is_kept
