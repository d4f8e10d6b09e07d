"""THE STORY: how one request for features is answered. The file to read first.

    get   1. memory has it
          2. an equal request is under way: share its answer
          3. the disk
          4. the holders that the ring names, the owner first
          5. any other member
          6. the cloud
          7. nobody: encode the image, if it is here
          8. leave the features with their owner and its replica, and answer

Whatever fails on the way falls through to the next step. Without an image in hand the last answer is None: not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from ..protocol import payload as payloads
from ..protocol.errors import EncoderUnavailable
from ..protocol.features import Features, Source
from ..protocol.keys import PACKED_KEY_BYTES
from .tombstones import Tombstones

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..protocol.keys import FeatureKey
    from ..protocol.payload import Payload
    from .removals import Removals
    from .ring import NodeId, Ring
    from .stats import Stats
    from .store.tiers import Tiers
    from .versions import Versions

# A LAN round trip is under a millisecond and 150 KB at 100 Mbit/s take 12: a holder that has not answered by then is
# not waited for alone, the next is asked beside it.
HEDGE_AFTER_S = 0.05
# How long the peers may take together. With an image in hand the local encoder is the alternative.
FETCH_TIMEOUT_S = 2.0
FETCH_TIMEOUT_WITH_IMAGE_S = 0.25
# A holder that takes longer to store a copy than this is passed over for the next on the ring.
PUT_TIMEOUT_S = 0.5
FORGET_TIMEOUT_S = 2.0
# No further reads of a request for many keys are begun after so long; a hung disk would take it for each of them.
DISK_TIMEOUT_S = 2.0
# The cloud is asked when everybody near has been. Beside an encoder it has less time: a WAN's round trip and 151 KB.
CLOUD_TIMEOUT_S = 5.0
CLOUD_TIMEOUT_WITH_IMAGE_S = 0.5
# So many keys of one request are read from disk or cloud at a time.
READS_TOGETHER = 16
# Without a directory, step 5 asks the other members directly; in a cluster larger than this, only so many of them.
OTHERS_ASKED_MAX = 32


class Reach(StrEnum):
    """How far a request may look."""

    LOCAL = "local"
    CLUSTER = "cluster"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Found:
    """The payload, which step had it, and the name of the node that held or made it."""

    payload: Payload
    source: Source
    node: str

    def features(self) -> Features:
        """The payload as a user gets it: decoded."""
        payload = self.payload
        return Features(payload.array(), payload.key, payload.fidelity, payload.codec.label, self.source, self.node)


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a put: on how many nodes the payload now is, and the payload as it is there."""

    copies: int
    payload: Payload


class Encoder(Protocol):
    """The local encoder. Runs outside the event loop."""

    async def encode(self, image: bytes) -> NDArray[np.float32]:
        """Features (tokens, dim); ImageError for a bad image, EncoderUnavailable when it cannot run now."""


class Peers(Protocol):
    """The other members, as far as a lookup sees them. No method raises for a peer that is slow, dead or wrong."""

    def others(self) -> Sequence[NodeId]:
        """The members that may be asked, healthiest first; never this node itself."""

    def is_healthy(self, node: NodeId) -> bool:
        """Whether it is worth waiting for."""

    def name(self, node: NodeId) -> str:
        """The node's name, for people."""

    async def get(self, node: NodeId, key: bytes, timeout_s: float) -> Payload | None:
        """The checked payload of `key`, or None: not there, or no answer in time."""

    async def get_many(self, node: NodeId, keys: Sequence[bytes], timeout_s: float) -> dict[bytes, Payload]:
        """Those of `keys` that the node has."""

    async def has(self, node: NodeId, keys: Sequence[bytes], timeout_s: float) -> set[bytes]:
        """Which of `keys` the node has."""

    async def put(self, node: NodeId, payload: Payload, age_s: float, timeout_s: float) -> bool:
        """Store a payload whose making began `age_s` ago; whether the node kept it."""

    async def forget(self, node: NodeId, names: Sequence[bytes], timeout_s: float, stamp: int = 0) -> int | None:
        """Drop keys (64 bytes) and images (32 bytes: every key of it); how many entries went, None without answer.

        With the `stamp` of a removal, for good.
        """


class Lookup:
    """Answers requests for features on one node."""

    def __init__(
        self,
        *,
        node: NodeId,
        name: str,
        store: Tiers,
        ring: Callable[[], Ring],
        peers: Peers,
        encoder: Encoder | None,
        versions: Versions,
        removals: Removals,
        now: Callable[[], float],
        stats: Stats,
    ) -> None:
        self._node = node
        self._name = name
        self._store = store
        self._ring = ring
        self._peers = peers
        self._encoder = encoder
        self._versions = versions
        self._removals = removals
        self._now = now
        self._stats = stats
        self.on_asked: Callable[[str, bytes], None] | None = None
        """Hears of each stream's requests before they are answered: what to fetch ahead is learnt from them."""
        self._flights: dict[object, asyncio.Task[Found | None]] = {}
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
    ) -> Found | None:
        """The features of `key`, or None when nobody holds them and they could not be made.

        With the `image` at hand, ImageError or EncoderUnavailable when it had to be encoded and could not be. Requests
        of one `stream`, a camera or a program, follow on each other.
        """
        self._stats.requests += 1
        if stream is not None and self.on_asked is not None:
            self.on_asked(stream, key.packed)
        if (found := self._from_memory(key, min_fidelity)) is not None:
            return self._count(found)
        flight = (key.packed, image is not None, reach, min_fidelity)
        if (task := self._flights.get(flight)) is not None:
            self._stats.coalesced += 1
        else:
            task = asyncio.ensure_future(self._find(key, image, reach, min_fidelity))
            self._flights[flight] = task
            task.add_done_callback(lambda done: self._landed(flight, done))
        # Shielded: a caller that gives up must not take the answer from the others, nor from the cache.
        found = await asyncio.shield(task)
        return self._count(found)

    async def _find(self, key: FeatureKey, image: bytes | None, reach: Reach, min_fidelity: float) -> Found | None:
        started = self._now()
        if (found := await self._from_disk(key, min_fidelity)) is not None:
            return found
        if reach is not Reach.LOCAL:
            found = await self._from_peers(key, min_fidelity, can_encode=image is not None)
            if found is not None:
                self._keep(found.payload, started)
                return found
        if reach is Reach.ANY:
            found = await self._from_cloud(key, min_fidelity, can_encode=image is not None)
            if found is not None:
                return found
        if image is None:
            return None
        return await self._encode(key, image, reach, min_fidelity, started)

    def _from_memory(self, key: FeatureKey, min_fidelity: float) -> Found | None:
        payload = self._store.get(key.packed)
        if payload is None or payload.fidelity < min_fidelity:
            return None
        return Found(payload, Source.MEMORY, self._name)

    async def _from_disk(self, key: FeatureKey, min_fidelity: float) -> Found | None:
        packed = key.packed
        if self._store.peek(packed) is not None:  # too coarse, or it came since memory was asked: from a prefetch, say
            return self._from_memory(key, min_fidelity)
        if not self._store.is_on_disk(packed):
            return None
        payload = await self._store.get_from_disk(packed)
        if payload is None or payload.fidelity < min_fidelity:
            return None
        return Found(payload, Source.DISK, self._name)

    async def _from_cloud(self, key: FeatureKey, min_fidelity: float, *, can_encode: bool) -> Found | None:
        timeout_s = CLOUD_TIMEOUT_WITH_IMAGE_S if can_encode else CLOUD_TIMEOUT_S
        payload = await self._store.get_from_cloud(key.packed, timeout_s)
        if payload is None or payload.fidelity < min_fidelity:
            return None
        return Found(payload, Source.CLOUD, self._name)

    async def _from_peers(self, key: FeatureKey, min_fidelity: float, *, can_encode: bool) -> Found | None:
        deadline = self._now() + (FETCH_TIMEOUT_WITH_IMAGE_S if can_encode else FETCH_TIMEOUT_S)
        holders = self._holders(key.packed)
        # A holder that has kept somebody waiting is waited for again only where there is no other way.
        worth_asking = [node for node in holders if self._peers.is_healthy(node)]
        if not worth_asking and not can_encode:
            worth_asking = holders
        found = await self._ask_in_turn(worth_asking, key, min_fidelity, deadline)
        if found is not None:
            return found
        others = self._others(without=holders)
        if not others or self._now() >= deadline:
            return None
        havers = [node for node, keys in (await self._who_has([key.packed], others, deadline)).items() if keys]
        return await self._ask_in_turn(havers, key, min_fidelity, deadline)

    async def _ask_in_turn(
        self, nodes: Sequence[NodeId], key: FeatureKey, min_fidelity: float, deadline: float
    ) -> Found | None:
        """Ask the first; if it has not, or is late, the next too; the first good answer wins, the rest is cancelled."""

        async def ask(node: NodeId) -> Found | None:
            payload = await self._peers.get(node, key.packed, deadline - self._now())
            if payload is None or payload.fidelity < min_fidelity or not self._may_answer(payload):
                return None
            return Found(payload, Source.PEER, self._peers.name(node))

        waiting = list(reversed(nodes))
        asking: set[asyncio.Task[Found | None]] = set()
        try:
            while (waiting or asking) and (left_s := deadline - self._now()) > 0:
                if waiting:
                    asking.add(asyncio.ensure_future(ask(waiting.pop())))
                patience_s = min(HEDGE_AFTER_S, left_s) if waiting else left_s
                done, asking = await asyncio.wait(asking, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (found := task.result()) is not None:
                        return found
        finally:
            for task in asking:
                task.cancel()
        return None

    async def _encode(self, key: FeatureKey, image: bytes, reach: Reach, min_fidelity: float, started: float) -> Found:
        if self._encoder is None or key.encoder != self._versions.own:  # what ours makes is not what was asked for
            raise EncoderUnavailable(
                f"nobody holds these features, and this node does not run {key.encoder}", retry_after_s=60
            )
        knows = self._removals.known(key)
        try:
            array = await self._encoder.encode(image)
        except Exception:
            self._stats.encode_failures += 1
            raise
        self._stats.encodes += 1
        payload = payloads.encode(array, key, min_fidelity=max(min_fidelity, payloads.FIDELITY_USUAL)).knowing(knows)
        self._keep(payload, started, is_new=True)
        if reach is not Reach.LOCAL:
            await self._leave_copies(payload, started)
        return Found(payload, Source.ENCODER, self._name)

    async def fetch_ahead(self, key: bytes) -> int:
        """Bring `key` into memory from wherever it is, for a request to come; how many bytes it has, 0 for nowhere.

        Counts neither as a request nor as a hit. Asks the ring's holders, and nobody beyond them but the cloud.
        """
        started = self._now()
        payload = await self._store.get_from_disk(key)
        for node in self._holders(key) if payload is None else ():
            if self._peers.is_healthy(node):
                payload = await self._peers.get(node, key, FETCH_TIMEOUT_S)
                if payload is not None and self._keep(payload, started):
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

    async def get_many(self, keys: Sequence[FeatureKey], *, reach: Reach = Reach.ANY) -> dict[FeatureKey, Found]:
        """Those of `keys` that somebody holds; each holder is asked once for all that it should have."""
        unique = list(dict.fromkeys(keys))
        self._stats.requests += len(unique)
        found = {key: here for key in unique if (here := self._from_memory(key, -1.0)) is not None}
        await self._read_together(unique, found, partial(self._from_disk, min_fidelity=-1.0), DISK_TIMEOUT_S)
        if reach is not Reach.LOCAL:
            started = self._now()
            deadline = started + FETCH_TIMEOUT_S
            for rank in range(self._ring().copies):  # owners first, then the first replicas, and so on
                await self._fetch_together(unique, found, self._by_holder(unique, found, rank), deadline)
            missing = [key.packed for key in unique if key not in found]
            if missing and (others := self._others()):
                held = await self._who_has(missing, others, deadline)
                plan: dict[NodeId, list[bytes]] = {}
                for node, node_keys in held.items():  # each key from the first that has it
                    plan[node] = [key for key in missing if key in node_keys]
                    missing = [key for key in missing if key not in node_keys]
                await self._fetch_together(unique, found, plan, deadline)
            for here in found.values():
                if here.source is Source.PEER:
                    self._keep(here.payload, started)
        if reach is Reach.ANY:
            from_cloud = partial(self._from_cloud, min_fidelity=-1.0, can_encode=False)
            await self._read_together(unique, found, from_cloud, CLOUD_TIMEOUT_S)
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

    def _by_holder(
        self, keys: Iterable[FeatureKey], found: dict[FeatureKey, Found], rank: int
    ) -> dict[NodeId, list[bytes]]:
        plan: dict[NodeId, list[bytes]] = {}
        for key in keys:
            holders = self._holders(key.packed)
            if key not in found and rank < len(holders):
                plan.setdefault(holders[rank], []).append(key.packed)
        return plan

    async def _fetch_together(
        self,
        keys: Iterable[FeatureKey],
        found: dict[FeatureKey, Found],
        plan: dict[NodeId, list[bytes]],
        deadline: float,
    ) -> None:
        """Ask every node of `plan` for its keys at the same time, and add what comes to `found`."""
        left_s = deadline - self._now()
        if not plan or left_s <= 0:
            return
        answers = await asyncio.gather(*(self._peers.get_many(node, wanted, left_s) for node, wanted in plan.items()))
        by_packed = {key.packed: key for key in keys}
        for node, answer in zip(plan, answers, strict=True):
            for packed, payload in answer.items():
                if not self._may_answer(payload):
                    continue
                found[by_packed[packed]] = Found(payload, Source.PEER, self._peers.name(node))

    # -- has, put, forget ---------------------------------------------------------------------------------------

    async def has(self, key: FeatureKey, *, reach: Reach = Reach.ANY) -> tuple[Source, str] | None:
        """Where `key` is, and the name of a node that holds it; None when nobody does. Moves no features."""
        if self._store.peek(key.packed) is not None:
            return Source.MEMORY, self._name
        if self._store.is_on_disk(key.packed):
            return Source.DISK, self._name
        if reach is not Reach.LOCAL:
            deadline = self._now() + FETCH_TIMEOUT_S
            for node, held in (await self._who_has([key.packed], self._others(), deadline)).items():
                if held:
                    return Source.PEER, self._peers.name(node)
        if reach is Reach.ANY and await self._store.is_in_cloud(key.packed):
            return Source.CLOUD, self._name
        return None

    def peek(self, key: FeatureKey) -> Found | None:
        """What this node has of `key` in memory; counts neither as a request nor as a use."""
        payload = self._store.peek(key.packed)
        return None if payload is None else Found(payload, Source.MEMORY, self._name)

    async def put(self, payload: Payload) -> Stored:
        """Store features made elsewhere with their owner and its replica. Other nodes forget an older copy."""
        started = self._now()
        self._stats.puts += 1
        payload = payload.knowing(self._removals.known(payload.key))  # the user knows: it is given once more
        key = payload.key.packed
        holders = self._ring().holders(key)
        others = [node for node in self._peers.others() if node not in holders]
        stale = asyncio.gather(*(self._peers.forget(node, [key], FORGET_TIMEOUT_S) for node in others))
        kept_here = self._keep(payload, started, is_new=True)
        copies = await self._leave_copies(payload, started)
        await stale
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
        others = self._peers.others()
        answers = await asyncio.gather(
            self._store.remove_from_cloud(names, FORGET_TIMEOUT_S),
            *(self._peers.forget(node, names, FORGET_TIMEOUT_S, stamp) for node in others),
        )
        return gone + sum(answer or 0 for answer in answers)

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
        return self._keep(payload, self._now() - age_s)

    # -- shared steps -------------------------------------------------------------------------------------------

    def _holders(self, key: bytes) -> list[NodeId]:
        """The owner of `key` and its replicas, without this node."""
        return [node for node in self._ring().holders(key) if node != self._node]

    def _others(self, without: Sequence[NodeId] = ()) -> list[NodeId]:
        """The members that are asked when it is not known who has something."""
        healthy = (node for node in self._peers.others() if node not in without and self._peers.is_healthy(node))
        return list(islice(healthy, OTHERS_ASKED_MAX))

    def _keep(self, payload: Payload, started: float, *, is_new: bool = False) -> bool:
        if self._tombstones.forbids(payload.key, started) or not self._versions.is_current(payload.key.encoder):
            return False
        self._removals.saw(payload)
        return self._may_answer(payload) and self._store.put(payload, is_new=is_new)

    def _may_answer(self, payload: Payload) -> bool:
        """Whether what somebody else holds is what this node would hold: it may not have heard of a removal yet."""
        return self._versions.fits(payload) and self._removals.allows(payload)

    async def _leave_copies(self, payload: Payload, started: float) -> int:
        """Put `payload` where the ring wants it, passing over who does not answer; how many other nodes have it."""
        ring = self._ring()
        wanted = ring.copies - (self._node in ring.holders(payload.key.packed))
        others = (node for node in ring.walk(payload.key.packed) if node != self._node)
        candidates = [node for node in others if self._peers.is_healthy(node)]
        copies = 0
        while candidates and copies < wanted:
            batch, candidates = candidates[: wanted - copies], candidates[wanted - copies :]
            puts: list[Awaitable[bool]] = [
                self._peers.put(node, payload, self._now() - started, PUT_TIMEOUT_S) for node in batch
            ]
            copies += sum(await asyncio.gather(*puts))
        return copies

    async def _who_has(
        self, keys: Sequence[bytes], nodes: Sequence[NodeId], deadline: float
    ) -> dict[NodeId, set[bytes]]:
        left_s = max(0.0, deadline - self._now())
        answers = await asyncio.gather(*(self._peers.has(node, keys, left_s) for node in nodes))
        return dict(zip(nodes, answers, strict=True))
