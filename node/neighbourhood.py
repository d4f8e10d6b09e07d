"""What this node knows of the others: who may hold a key, who is worth asking, and how each has answered of late.

Every question goes through here, so that each is timed and counted once: an answer, whatever it says, speaks for its
peer (`cost.py`, `breaker.py`), silence against it. Who is asked, and for how long, `search.py` decides.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from .breaker import Breaker
from .cost import PEERS_MAX

if TYPE_CHECKING:
    from ..protocol.payload import Payload
    from .cost import Costs
    from .lease import Granted, Leased
    from .ring import NodeId, Ring

# Who has not told yet what it holds (`directory.py`), after a start or where datagrams do not pass, is asked: so many.
OTHERS_ASKED_MAX = 32
# Who was given up after so many times what its answer should have taken has failed. Sooner, it says nothing of it:
# another was quicker.
LATE_FACTOR = 2.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Reply:
    """A peer's answer to a question for one key: the checked payload, or None for "not here".

    An owner that was told that the key would be encoded says who may.
    """

    payload: Payload | None
    lease: Granted | Leased | None = None


class Peers(Protocol):
    """Asking the other members. No method raises for a peer that is slow, dead or wrong: None is no answer in time."""

    def others(self) -> Sequence[NodeId]:
        """The members that may be asked, healthiest first; never this node itself."""

    def believed(self, key: bytes) -> Sequence[NodeId]:
        """Those that have told that they hold `key`; they may be wrong, and are corrected by asking."""

    def untold(self) -> Sequence[NodeId]:
        """Those that may hold anything: they have not told."""

    def is_healthy(self, node: NodeId) -> bool:
        """Whether it is worth waiting for, as far as its connection and the others say."""

    def name(self, node: NodeId) -> str:
        """The node's name, for people."""

    async def get(self, node: NodeId, key: bytes, timeout_s: float) -> Reply | None:
        """The payload of `key`."""

    async def claim(self, node: NodeId, key: bytes, encode_s: float, timeout_s: float) -> Reply | None:
        """The payload of `key`, or, from its owner, the lease to make it in `encode_s`, or who has that."""

    async def wait_for(self, node: NodeId, key: bytes, timeout_s: float) -> Reply | None:
        """The payload of `key` as soon as somebody has made it; "not here" when nobody does any more."""

    async def release(self, node: NodeId, key: bytes, timeout_s: float) -> None:
        """The lease to make `key` is not needed any more."""

    async def get_many(self, node: NodeId, keys: Sequence[bytes], timeout_s: float) -> dict[bytes, Payload] | None:
        """Those of `keys` that the node has."""

    async def has(self, node: NodeId, keys: Sequence[bytes], timeout_s: float) -> set[bytes] | None:
        """Which of `keys` the node has."""

    async def put(self, node: NodeId, payload: Payload, age_s: float, timeout_s: float) -> bool | None:
        """Store a payload whose making began `age_s` ago; whether the node kept it."""

    async def forget(self, node: NodeId, names: Sequence[bytes], timeout_s: float, stamp: int = 0) -> int | None:
        """Drop keys (64 bytes) and images (32 bytes: every key of it); how many entries went.

        With the `stamp` of a removal, for good.
        """


class Neighbourhood:
    """The other members, as one node has come to know them."""

    def __init__(
        self,
        me: NodeId,
        *,
        peers: Peers,
        ring: Callable[[], Ring],
        costs: Costs,
        rng: random.Random,
        now: Callable[[], float],
    ) -> None:
        self.me = me
        self.peers = peers
        self.ring = ring
        self.costs = costs
        self._rng = rng
        self._now = now
        self.former_holders: Callable[[bytes], Sequence[NodeId]] = lambda key: ()
        self.unsettled_holders: Callable[[bytes], Sequence[NodeId]] = lambda key: ()
        self._breakers: dict[NodeId, Breaker] = {}

    # -- who ----------------------------------------------------------------------------------------------------

    def holders(self, key: bytes) -> list[NodeId]:
        """Who should have `key`: its owner and replicas on the ring, without this node."""
        return [node for node in self.ring().holders(key) if node != self.me]

    def believed(self, key: bytes) -> list[NodeId]:
        """Who else has told that it holds `key`, or should have it from before the members changed."""
        holders = self.ring().holders(key)
        nodes = dict.fromkeys((*self.peers.believed(key), *self.former_holders(key)))
        return [node for node in nodes if node not in holders and node != self.me and self.may_ask(node)]

    def untold(self, without: Sequence[NodeId] = ()) -> list[NodeId]:
        """Whom to ask beyond that: members that have not told yet what they hold."""
        worth_it = (node for node in self.peers.untold() if node not in without and self.may_ask(node))
        return list(islice(worth_it, OTHERS_ASKED_MAX))

    def may_ask(self, node: NodeId) -> bool:
        """Whether `node` is expected to answer at all."""
        breaker = self._breakers.get(node)
        return self.peers.is_healthy(node) and (breaker is None or breaker.would_allow(self._now()))

    def worth_asking(self, nodes: Sequence[NodeId], ahead: int) -> list[NodeId]:
        """Those of `nodes` from which to fetch is cheaper than to encode here behind `ahead` others; cheapest first."""
        return self.costs.worth_asking(self._now(), [node for node in nodes if self.may_ask(node)], ahead)

    def by_cost(self, nodes: Sequence[NodeId]) -> list[NodeId]:
        """`nodes`, the cheapest first; who is not expected to answer is left out where anybody else is there."""
        expected = [node for node in nodes if self.may_ask(node)]
        return self.costs.cheapest_first(self._now(), expected or nodes)

    def owner(self, key: bytes) -> NodeId | None:
        """Who grants the lease to encode `key`: the first on the ring that may be asked, perhaps this node."""
        return next((node for node in self.ring().holders(key) if node == self.me or self.may_ask(node)), None)

    def is_back(self, node: NodeId) -> None:
        """A member that was away is there again: what it did before is no reason not to ask it."""
        self._breakers.pop(node, None)
        self.costs.is_back(node)

    # -- questions ----------------------------------------------------------------------------------------------

    async def get(self, node: NodeId, key: bytes, timeout_s: float) -> Reply | None:
        """Ask `node` for `key`."""
        return await self._watched(node, self.peers.get(node, key, timeout_s), _bytes_of_reply, is_fetch=True)

    async def claim(self, node: NodeId, key: bytes, encode_s: float, timeout_s: float) -> Reply | None:
        """Ask the owner for `key`, or for the lease to make it."""
        return await self._watched(
            node, self.peers.claim(node, key, encode_s, timeout_s), _bytes_of_reply, is_fetch=True
        )

    async def get_many(self, node: NodeId, keys: Sequence[bytes], timeout_s: float) -> dict[bytes, Payload]:
        """Ask `node` for those of `keys` that it has."""
        return await self._watched(node, self.peers.get_many(node, keys, timeout_s), _bytes_of_batch) or {}

    async def has(self, node: NodeId, keys: Sequence[bytes], timeout_s: float) -> set[bytes]:
        """Ask `node` which of `keys` it has."""
        return await self._watched(node, self.peers.has(node, keys, timeout_s), _no_bytes) or set()

    async def put(self, node: NodeId, payload: Payload, age_s: float, timeout_s: float) -> bool:
        """Give `payload` to `node`; whether it kept it."""
        return bool(await self._watched(node, self.peers.put(node, payload, age_s, timeout_s), _unknown))

    async def forget(self, node: NodeId, names: Sequence[bytes], timeout_s: float, stamp: int = 0) -> int:
        """Have `node` drop keys and images; how many entries went."""
        return await self._watched(node, self.peers.forget(node, names, timeout_s, stamp), _unknown) or 0

    async def _watched(
        self,
        node: NodeId,
        question: Awaitable[_T | None],
        size: Callable[[_T], tuple[int, int] | None],
        *,
        is_fetch: bool = False,
    ) -> _T | None:
        """The answer to `question`; `size` says how many bytes of how many payloads came with it."""
        started = self._now()
        breaker = self._breaker(node)
        breaker.allows(started)  # whoever asks has chosen to; if it was open, this is its trial
        try:
            answer = await question
        except asyncio.CancelledError:
            now = self._now()
            if now - started > LATE_FACTOR * self.costs.fetch_s(node):
                self.costs.failed(now, node, now - started, is_fetch=is_fetch)
                breaker.failed(now)
            else:
                breaker.gave_up(now)
            raise
        now = self._now()
        if answer is None:
            self.costs.failed(now, node, now - started, is_fetch=is_fetch)
            breaker.failed(now)
            return None
        breaker.succeeded()
        if (came := size(answer)) is not None:
            nbytes, payloads = came
            self.costs.answered(now, node, now - started, nbytes, payloads)
        return answer

    def _breaker(self, node: NodeId) -> Breaker:
        breaker = self._breakers.get(node)
        if breaker is None:
            if len(self._breakers) >= PEERS_MAX:
                del self._breakers[next(iter(self._breakers))]
            breaker = self._breakers[node] = Breaker(self._rng)
        return breaker


def _bytes_of_reply(reply: Reply) -> tuple[int, int]:
    return (reply.payload.nbytes, 1) if reply.payload is not None else (0, 0)


def _bytes_of_batch(batch: dict[bytes, Payload]) -> tuple[int, int]:
    return sum(payload.nbytes for payload in batch.values()), len(batch)


def _no_bytes(answer: object) -> tuple[int, int]:
    return 0, 0


def _unknown(answer: object) -> None:
    """How long it took says nothing of what a small question or a fetch takes."""
