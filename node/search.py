"""Who has the features of one key, and whether to wait for that: elsewhere, or made here meanwhile.

Without an image in hand there is nothing else to do than to ask: the holders one after the other, the cheapest first,
each further one beside those that are late (hedged requests: Dean and Barroso, "The Tail at Scale", CACM 2013), then
whoever says that it has it, then the cloud.

With an image in hand the encoder is the measure (`cost.py`): only who is likely to answer sooner is asked, and when a
tenth of an encode has been waited in all, it begins. Whoever is first answers, and the other is cancelled. An encode is
held back a little longer for a peer that is steady, and much longer only where another node is at it, and done in time
(`lease.py`). It is not held back for a cloud that will not have said no by then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..protocol.errors import EncoderUnavailable
from ..protocol.features import Source
from .cost import ENCODE_UNKNOWN_S
from .eviction.policy import NO_FACTS, Facts
from .found import Found, Reach
from .lease import Granted, Leased
from .tasks import Tasks

if TYPE_CHECKING:
    from ..protocol.keys import FeatureKey
    from ..protocol.payload import Payload
    from .lease_desk import LeaseDesk
    from .neighbourhood import Neighbourhood
    from .ring import NodeId
    from .store.tiers import Tiers

# How long the peers may take together where there is nothing but to wait: a LAN answers in milliseconds, a busy Wi-Fi
# in some hundred.
FETCH_TIMEOUT_S = 2.0
CLOUD_TIMEOUT_S = 5.0
# What a lease is asked for by who has never encoded: half of what others would wait for it (`ENCODE_UNKNOWN_S`).
FIRST_ENCODE_S = ENCODE_UNKNOWN_S / 2


def _signal() -> asyncio.Future[None]:
    """Something that happens once; unlike an Event it needs no task to be waited for beside others."""
    return asyncio.get_running_loop().create_future()


def _give(signal: asyncio.Future[None]) -> None:
    if not signal.done():
        signal.set_result(None)


@dataclass(slots=True, eq=False)
class Question:
    """One request, on its way from holder to holder."""

    key: FeatureKey
    wants: Callable[[Payload], bool]
    """Whether that is an answer: its version is current, its shape right, its fidelity enough."""
    reach: Reach
    started: float
    ahead: int = 0
    """How many images are with the encoder already."""
    can_encode: bool = False
    hold_until: float = 0.0
    """Until when an encode is held back."""
    begun: asyncio.Future[None] = field(default_factory=_signal)
    """Done where there is no point in holding it back any longer."""
    facts: Facts = NO_FACTS
    """What the eviction policy may know of what comes for it."""
    encoded: asyncio.Future[None] = field(default_factory=_signal)
    """Done when this node has made the features: what now comes from elsewhere are these."""
    granted_by: NodeId | None = None
    """The owner that has told this node to encode."""

    def begin(self) -> None:
        """Do not hold an encode back any longer."""
        _give(self.begun)

    def made(self) -> None:
        """This node has encoded the image."""
        _give(self.encoded)


class _OwnTurn(Exception):
    """There is nothing left to look for: another node was at it, and is not in time."""


class Search:
    """Looks for one key beyond this device."""

    def __init__(
        self,
        neighbourhood: Neighbourhood,
        desk: LeaseDesk,
        store: Tiers,
        *,
        name: str,
        now: Callable[[], float],
    ) -> None:
        self._neighbourhood = neighbourhood
        self._costs = neighbourhood.costs
        self._desk = desk
        self._store = store
        self._name = name
        self._now = now

    async def find(self, question: Question) -> Found | None:
        """What somebody has, for who cannot encode."""
        packed = question.key.packed
        deadline = question.started + FETCH_TIMEOUT_S
        holders = self._neighbourhood.by_cost(self._neighbourhood.holders(packed))
        found = await self._in_turn(question, holders, deadline)
        return found or await self._further(question, deadline)

    async def find_or_make(self, question: Question, make: Callable[[], Coroutine[Any, Any, Found]]) -> Found:
        """What somebody has, or what `make` makes: it begins when nobody has it, or has not answered soon enough."""
        question.can_encode = True
        question.hold_until = question.started + self._costs.patience_s(question.ahead)
        looking = asyncio.ensure_future(self._look_around(question))
        making: asyncio.Task[Found] | None = None
        try:
            while not (looking.done() or question.begun.done()) and (left_s := question.hold_until - self._now()) > 0:
                waited: set[asyncio.Future[Any]] = {looking, question.begun}
                await asyncio.wait(waited, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if looking.done() and (found := looking.result()) is not None:
                return found
            making = asyncio.ensure_future(make())
            if not looking.done():
                await asyncio.wait({looking, making}, return_when=asyncio.FIRST_COMPLETED)
                if not making.done() and (found := looking.result()) is not None:
                    return found
            try:
                made = await making
            except EncoderUnavailable:
                if (found := await looking) is None:
                    raise
                return found
            if made.converted_from is None:
                question.granted_by = None  # the lease ends when the owner has its copy
            return made
        finally:
            for task in (looking, making):
                if task is not None:
                    task.cancel()
            if question.granted_by is not None:
                self._desk.give_back(question.granted_by, question.key.packed)

    async def who_has(self, key: bytes) -> NodeId | None:
        """A node that says that it has `key`; moves no features."""
        near = self._neighbourhood
        holders = [node for node in near.holders(key) if near.may_ask(node)]
        nodes = list(dict.fromkeys([*holders, *near.believed(key), *near.untold()]))
        return next(iter(await self._havers(key, nodes, self._now() + FETCH_TIMEOUT_S)), None)

    # -- where it may be ----------------------------------------------------------------------------------------

    async def _look_around(self, question: Question) -> Found | None:
        """As `find`, among those that are likely to be sooner than the encoder."""
        packed = question.key.packed
        owner = self._neighbourhood.owner(packed)
        try:
            if owner == self._neighbourhood.me and (found := await self._claim(question, owner)) is not None:
                return found
            holders = self._neighbourhood.worth_asking(self._neighbourhood.holders(packed), question.ahead)
            found = await self._in_turn(question, holders, self._useless_at(question))
            return found or await self._further(question, self._useless_at(question))
        except _OwnTurn:
            return None

    async def _further(self, question: Question, deadline: float) -> Found | None:
        """From who has told that it has it, from who has told nothing yet and says so now, and then from the cloud."""
        packed = question.key.packed
        believed = self._neighbourhood.believed(packed)
        others = self._neighbourhood.untold(without=self._neighbourhood.holders(packed))
        if question.can_encode:
            believed = self._neighbourhood.worth_asking(believed, question.ahead)
            others = self._neighbourhood.worth_asking(others, question.ahead)
        else:
            believed = self._neighbourhood.by_cost(believed)
        if believed and (found := await self._in_turn(question, believed, deadline)) is not None:
            return found
        if others and self._now() < deadline:
            found = await self._in_turn(question, await self._havers(packed, others, deadline), deadline)
            if found is not None:
                return found
        if question.reach is not Reach.ANY:
            return None
        if not question.can_encode:
            payload = await self._store.get_from_cloud(packed, CLOUD_TIMEOUT_S, facts=question.facts)
        elif (left_s := deadline - self._now()) > 0:
            if self._now() + self._store.cloud_miss_s > question.hold_until:
                question.begin()  # it will not have said no by then: to hold the encode back would be in vain
            instead_s = self._costs.encode_s(question.ahead)
            payload = await self._store.get_from_cloud(packed, left_s, instead_s=instead_s, facts=question.facts)
        else:
            return None
        return self._checked(question, payload, Source.CLOUD, self._name)

    async def _havers(self, key: bytes, nodes: Sequence[NodeId], deadline: float) -> list[NodeId]:
        """Those of `nodes` that have `key`; the first that says so is enough, and is asked at once."""
        left_s = deadline - self._now()

        async def has(node: NodeId) -> NodeId | None:
            return node if await self._neighbourhood.has(node, [key], left_s) else None

        asking = [asyncio.ensure_future(has(node)) for node in nodes]
        try:
            for answer in asyncio.as_completed(asking):
                if (node := await answer) is not None:
                    return [node, *(other for other in self._said_yes(asking) if other != node)]
            return []
        finally:
            for task in asking:
                task.cancel()

    @staticmethod
    def _said_yes(asking: Sequence[asyncio.Task[NodeId | None]]) -> list[NodeId]:
        answers = (task.result() for task in asking if task.done())
        return [node for node in answers if node is not None]

    async def _in_turn(self, question: Question, nodes: Sequence[NodeId], deadline: float) -> Found | None:
        """Ask the first; if it has not, or is late, the next too; the first good answer wins, the rest is cancelled."""
        waiting = deque(nodes)
        asking: Tasks[Found | None] = Tasks()
        try:
            while waiting or asking:
                until = max(deadline, self._useless_at(question)) if question.can_encode else deadline
                if (patience_s := until - self._now()) <= 0:
                    return None
                if waiting:
                    node = waiting.popleft()
                    asking.start(self._ask(question, node, patience_s))
                    if waiting:
                        patience_s = min(patience_s, self._costs.hedge_after_s(node))
                asked = tuple(asking)
                await asyncio.wait(asked, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                for task in asked:
                    if task.done() and (found := task.result()) is not None:
                        return found
            return None
        finally:
            asking.cancel()

    # -- one of them --------------------------------------------------------------------------------------------

    async def _ask(self, question: Question, node: NodeId, timeout_s: float) -> Found | None:
        if question.can_encode:
            hold_s = self._costs.hold_s(self._now(), node, question.ahead)
            question.hold_until = max(question.hold_until, question.started + hold_s)
        if question.can_encode and node == self._neighbourhood.owner(question.key.packed):
            return await self._claim(question, node, timeout_s)
        reply = await self._neighbourhood.get(node, question.key.packed, timeout_s)
        return self._from_peer(question, node, reply.payload if reply is not None else None)

    async def _claim(self, question: Question, owner: NodeId, timeout_s: float = 0.0) -> Found | None:
        """Ask the owner, who may say that another node is encoding: then wait for that, if it comes in time."""
        packed = question.key.packed
        encode_s = self._costs.encode_s(question.ahead)
        encode_s = FIRST_ENCODE_S if encode_s is None else encode_s
        has_waited = False
        while True:
            reply = await self._desk.ask(owner, packed, encode_s, timeout_s)
            if reply is not None and isinstance(reply.lease, Granted):
                question.granted_by = owner
            if reply is None or not isinstance(reply.lease, Leased):
                break
            timeout_s = self._costs.lease_wait_s(
                self._now() - question.started, reply.lease.expected_s, owner, question.ahead
            )
            if timeout_s <= 0:
                raise _OwnTurn
            has_waited = True
            question.hold_until = max(question.hold_until, self._now() + timeout_s)
            # If it is late this node begins, too, and the other may still be the first.
            payload = await self._desk.wait_at(owner, packed, timeout_s + encode_s, question.begin)
            if (made := self._from_peer(question, owner, payload)) is not None:
                return made
            # It died, or gave up. If there is time left, hear who is at it now.
            if (timeout_s := question.hold_until - self._now()) <= 0 or question.begun.done():
                return await self._late(question, owner, encode_s)
        found = self._from_peer(question, owner, reply.payload if reply is not None else None)
        if found is None and has_waited:
            return await self._late(question, owner, encode_s)
        return found

    async def _late(self, question: Question, owner: NodeId, encode_s: float) -> Found | None:
        """What is with the owner before this node's own encode is over, which begins now.

        Whoever was at it may have been taken for lost and be done soon: on a lossy link, more often than not.
        """
        question.begin()
        packed = question.key.packed
        left_s = self._useless_at(question) - self._now()
        if question.granted_by is None:  # or there might be no lease, and the owner would not keep the question
            reply = await self._desk.ask(owner, packed, encode_s, left_s)
            if reply is not None and isinstance(reply.lease, Granted):
                question.granted_by = owner
            if reply is not None and (found := self._from_peer(question, owner, reply.payload)) is not None:
                return found
            left_s = self._useless_at(question) - self._now()
        waiting = asyncio.ensure_future(self._desk.wait_at(owner, packed, max(0.0, left_s), lambda: None))
        waited: set[asyncio.Future[Any]] = {waiting, question.encoded}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            payload = waiting.result() if waiting.done() else None
        finally:
            waiting.cancel()
        if (found := self._from_peer(question, owner, payload)) is None:
            raise _OwnTurn
        return found

    def _from_peer(self, question: Question, node: NodeId, payload: Payload | None) -> Found | None:
        if node == self._neighbourhood.me:
            return self._checked(question, payload, Source.MEMORY, self._name)
        return self._checked(question, payload, Source.PEER, self._neighbourhood.peers.name(node))

    def _checked(self, question: Question, payload: Payload | None, source: Source, node: str) -> Found | None:
        if payload is None or not question.wants(payload):
            return None
        return Found(payload, source, node)

    def _useless_at(self, question: Question) -> float:
        """When an answer would come later than what is encoded here."""
        begins_at = max(question.started + self._costs.patience_s(question.ahead), question.hold_until)
        return begins_at + (self._costs.encode_s(question.ahead) or FETCH_TIMEOUT_S)
