"""The shell around probing and gossip: one socket for datagrams, one timer; decides nothing."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..protocol import datagrams, messages
from ..protocol.datagrams import Here, Probe
from ..protocol.errors import RemoteProtocolError
from .probing import PERIOD_S, Action, Call, Compare, Prober, Send, Timed
from .tasks import Tasks

if TYPE_CHECKING:
    from .following import Following
    from .gossip import Gossip, Heard
    from .link import Address, Datagrams, Link, Network
    from .links import Links
    from .membership import Member, Membership
    from .ring import NodeId
    from .rumors import Rumors
    from .stats import Stats

# Rumors do not wait for a probe: while there are any, they go to some members drawn at random (memberlist's numbers).
NEWS_S = 0.2
NEWS_TO = 3
CALLS_MAX = 16
EXCHANGES_MAX = 4
EXCHANGE_TIMEOUT_S = 2.0

_WITH_NEWS = (Probe, Here)

_log = logging.getLogger(__name__)


class Heartbeat:
    """Sends and receives datagrams for one node's membership."""

    def __init__(
        self,
        *,
        membership: Membership,
        gossip: Gossip,
        following: Following,
        rumors: Rumors,
        links: Links,
        stats: Stats,
        rng: random.Random,
        used_bytes: Callable[[], int],
        on_heard: Callable[[Heard], None],
        on_change: Callable[[list[Member]], None],
        on_timed: Callable[[NodeId, float], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._membership = membership
        self._gossip = gossip
        self._following = following
        self._rumors = rumors
        self._links = links
        self._stats = stats
        self._rng = rng
        self._used_bytes = used_bytes
        self._on_heard = on_heard
        self._on_change = on_change
        self._on_timed = on_timed
        self._prober = Prober(membership, self._loop.time(), rng)
        self._datagrams: Datagrams | None = None
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._timer_at = math.inf
        self._probe_at = math.inf
        self._news_at = math.inf
        self._tasks: Tasks[None] = Tasks()
        self._calls: set[NodeId] = set()
        self._exchanges: set[NodeId] = set()

    @property
    def health(self) -> int:
        """Lifeguard's local health: 0 is well."""
        return self._prober.health

    async def start(self, network: Network, address: Address) -> None:
        """Begin; OSError when the port is taken."""
        assert self._datagrams is None
        self._datagrams = await network.datagrams(self._receive, address)
        self._schedule()

    def close(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        self._tasks.cancel()

    # -- time ---------------------------------------------------------------------------------------------------

    def spread(self) -> None:
        """There is a rumor: do not wait for the next probe."""
        if self._news_at == math.inf:
            self._news_at = self._loop.time()
            self._schedule()

    def _schedule(self) -> None:
        if self._datagrams is None:
            return
        self._probe_at = self._prober.deadline()
        deadline = min(self._probe_at, self._news_at)
        if deadline == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(deadline, self._tick), deadline

    def _tick(self) -> None:
        now = self._loop.time()
        self._timer, self._timer_at = None, math.inf
        if now >= self._probe_at:
            actions, changed = self._prober.tick(now, self._gossip.digest())
            self._do(actions)
            for node in self._following.to_ask():
                self._do(self._prober.ask(now, node, self._gossip.digest()))
            self._changed(changed)
        if now >= self._news_at:
            self._news_at = now + NEWS_S
            self._tell_news()
        if not len(self._rumors):
            self._news_at = math.inf
        elif self._news_at == math.inf:
            self._news_at = now + NEWS_S
        self._schedule()

    def _tell_news(self) -> None:
        ids = self._membership.in_ring_ids
        for node in self._rng.sample(ids, min(NEWS_TO, len(ids))):
            member = self._membership.get(node)
            if member is not None and len(self._rumors):
                self._send(Send(member.peer, datagrams.News(), node))

    def goodbye(self) -> None:
        """Tell everybody that this node leaves: the only message that goes to all at once."""
        rumor = self._membership.leave()
        for node in self._membership.in_ring_ids:
            member = self._membership.get(node)
            if member is not None and self._datagrams is not None:
                self._datagrams.send(datagrams.encode_datagram(datagrams.News(), [rumor]), member.peer)

    # -- in and out ---------------------------------------------------------------------------------------------

    def _receive(self, data: bytes, address: Address) -> None:
        now = self._loop.time()
        try:
            said, rumors, news = datagrams.decode_datagram(data)
            if rumors and (heard := self._gossip.hear_encoded(now, rumors)) is not None:
                self._on_heard(heard)
            if news is not None:
                self._heard_news(said, news)
        except RemoteProtocolError as error:
            self._stats.protocol_errors += 1
            _log.debug("a datagram from %s:%d: %s", *address, error)
            return
        is_probe = isinstance(said, Probe)
        used_bytes = self._used_bytes() if is_probe else 0
        self._do(self._prober.received(now, address, said, self._gossip.digest(), used_bytes))
        if len(self._rumors):
            self.spread()
        if rumors or not is_probe:  # to answer a probe leaves nothing to do later
            self._schedule()

    def _send(self, send: Send) -> None:
        if self._datagrams is not None:
            said, news = send.said, None
            if send.to is not None and isinstance(said, _WITH_NEWS):
                news = self._following.news_for(send.to)
            rumors = self._gossip.beside(said, send.to, news)
            self._datagrams.send(datagrams.encode_datagram(said, rumors, news), send.address)

    def _heard_news(self, said: datagrams.Said, news: datagrams.ListNews) -> None:
        """What a probe, or its answer, tells of its sender's list of keys."""
        if isinstance(said, Probe) and said.target == self._membership.me:
            self._following.heard(said.sender, news, is_answer=False)
        elif isinstance(said, Here) and (node := self._prober.asked(said.number)) is not None:
            self._following.heard(node, news, is_answer=True)

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Timed():
                    self._on_timed(action.node, action.round_trip_s)
                case Call() if action.node not in self._calls and len(self._calls) < CALLS_MAX:
                    self._calls.add(action.node)
                    self._tasks.start(self._call(action))
                case Compare():
                    self._compare(action)

    def _changed(self, changed: list[Member]) -> None:
        if changed:
            self._on_change(changed)

    # -- over TCP -----------------------------------------------------------------------------------------------

    def lost(self, node: NodeId) -> None:
        """The connection to a member broke: it may be dead."""
        self._do(self._prober.hurry(self._loop.time(), node, self._gossip.digest()))
        self._schedule()

    async def _call(self, call: Call) -> None:
        try:
            is_there = await self._links.call(call.node, PERIOD_S)
        finally:
            self._calls.discard(call.node)
        now = self._loop.time()
        if is_there:
            self._following.called(call.node)
            self._do(self._prober.answered(now, call.number, self._gossip.digest()))
        elif is_there is False:
            self._changed(self._prober.refused(now, call.number))
        if len(self._rumors):
            self.spread()
        self._schedule()

    def _compare(self, compare: Compare) -> None:
        is_differing = compare.their_digest != b""
        now = self._loop.time()
        if is_differing and not self._gossip.is_worth_an_exchange(now, compare.node, compare.their_digest):
            return
        if compare.node in self._exchanges or len(self._exchanges) >= EXCHANGES_MAX:
            return
        self._exchanges.add(compare.node)
        self._tasks.start(self._exchange_with(compare))

    async def _exchange_with(self, compare: Compare) -> None:
        try:
            link = await self._links.at(compare.node, compare.address, EXCHANGE_TIMEOUT_S)
            if link is not None and await self.exchange(link):
                self._gossip.exchanged(compare.node, compare.their_digest)
        finally:
            self._exchanges.discard(compare.node)

    async def exchange(self, link: Link) -> bool:
        """Learn all that the other side knows, and tell it all that this node does; whether that was done."""
        if not await self._exchange_removals(link):  # first: who knows all, may answer from its disk
            return False
        state = await link.ask(messages.GetState(), EXCHANGE_TIMEOUT_S)
        if state is None or not isinstance(state.answer, messages.State):
            return False
        try:
            self._on_heard(self._gossip.merge(self._loop.time(), state.answer))
        except RemoteProtocolError as error:
            self._links.offended(link, error)
            return False
        return await link.ask(self._gossip.state(state.answer), EXCHANGE_TIMEOUT_S) is not None

    async def _exchange_removals(self, link: Link) -> bool:
        theirs = await link.ask(self._gossip.removed_sums(), EXCHANGE_TIMEOUT_S)
        if theirs is None or not isinstance(theirs.answer, messages.RemovedSums):
            return False
        for number in self._gossip.removed_parts(theirs.answer):
            part = await link.ask(self._gossip.removed_part(self._loop.time(), number), EXCHANGE_TIMEOUT_S)
            if part is None or not isinstance(part.answer, messages.RemovedPart):
                return False
            try:
                self._on_heard(self._gossip.merge_removed(self._loop.time(), part.answer))
            except RemoteProtocolError as error:
                self._links.offended(link, error)
                return False
        return True
