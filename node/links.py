"""Connections to peers: one to each address that somebody may be at, kept open, redialled, and asked through.

Each node asks through the connection that it dialled and answers on those that others dialled, so two members have two
connections, and each knows by itself whether it reaches the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..protocol import messages
from ..protocol.errors import RemoteProtocolError
from .link import dial
from .membership import DEAD_AFTER_S, PING_INTERVAL_S

if TYPE_CHECKING:
    from ..protocol.messages import Hello, Message
    from .gossip import Gossip
    from .link import Address, Link, Network
    from .membership import Membership
    from .ring import NodeId
    from .sightings import Sighting
    from .stats import Stats

DIAL_TIMEOUT_S = 2.0
# Redial after 0.1, 0.2, 0.4 … s: a restarted member is back within a second; one that is off costs little for long.
REDIAL_FIRST_S = 0.1
REDIAL_MEMBER_MAX_S = 5.0
REDIAL_STRANGER_MAX_S = 30.0
GIVE_UP_AFTER_S = 3600.0
TARGETS_MAX = 256

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Target:
    """An address to keep a connection to."""

    address: Address
    is_seed: bool
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    has_met: bool = False
    is_open: bool = False
    task: asyncio.Task[None] | None = None


class Links:
    """Every connection that this node dialled."""

    def __init__(
        self,
        *,
        hello: Callable[[], Hello],
        network: Network,
        membership: Membership,
        gossip: Gossip,
        stats: Stats,
        rng: random.Random,
        heard_state: Callable[[messages.State], None],
        on_change: Callable[[], None],
        on_twin: Callable[[Hello], None],
        receive_into: Callable[[int], memoryview],
    ) -> None:
        self._hello = hello
        self._network = network
        self._membership = membership
        self._gossip = gossip
        self._stats = stats
        self._rng = rng
        self._heard_state = heard_state
        self._on_change = on_change
        self._on_twin = on_twin
        self._receive_into = receive_into
        self._targets: dict[Address, _Target] = {}
        self._links: dict[NodeId, Link] = {}
        self._is_closed = False

    # -- whom to dial -------------------------------------------------------------------------------------------

    def sighted(self, sighting: Sighting, *, is_seed: bool = False) -> None:
        """Somebody may be there: dial, unless that is known to be a member that is well, or there is no room."""
        if self._is_closed or (sighting.id, sighting.boot) == (self._membership.me, self._hello().boot):
            return
        link = self._links.get(sighting.id)
        if link is not None and link.hello.boot == sighting.boot:
            return
        target = self._targets.get(sighting.address)
        if target is not None:
            target.wake.set()
            return
        if len(self._targets) >= TARGETS_MAX and not self._make_room():
            return
        target = _Target(sighting.address, is_seed)
        self._targets[sighting.address] = target
        target.task = asyncio.ensure_future(self._keep(target))

    def _make_room(self) -> bool:
        """Give up an address where nobody answers, rather one where nobody ever did."""
        given_up = min(
            (target for target in self._targets.values() if not target.is_open and not target.is_seed),
            key=lambda target: target.has_met,
            default=None,
        )
        if given_up is None or given_up.task is None:
            return False
        given_up.task.cancel()
        del self._targets[given_up.address]
        return True

    # -- the story of one address -------------------------------------------------------------------------------

    async def _keep(self, target: _Target) -> None:
        """Dial, ask how it is for as long as it answers, and dial again."""
        loop = asyncio.get_running_loop()
        redial_s, failing_since = REDIAL_FIRST_S, loop.time()
        try:
            while not self._is_closed:
                link = await self._dial(target)
                if link is not None:
                    target.has_met = target.is_open = True
                    await self._stay(link)
                    target.is_open = False
                    redial_s, failing_since = REDIAL_FIRST_S, loop.time()
                    if self._has_left(link.hello):
                        return
                elif target.address not in self._targets:  # found to be of no use, or given up for another
                    return
                is_hopeless = loop.time() - failing_since > GIVE_UP_AFTER_S
                if is_hopeless and not target.is_seed:
                    return
                # A sighting ends the wait, but not the first of it: sightings cost nothing to make up.
                await asyncio.sleep(REDIAL_FIRST_S)
                target.wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(target.wake.wait(), redial_s * self._rng.uniform(0.8, 1.2))
                redial_s = min(2 * redial_s, REDIAL_MEMBER_MAX_S if target.has_met else REDIAL_STRANGER_MAX_S)
        finally:
            if self._targets.get(target.address) is target:
                del self._targets[target.address]

    async def _dial(self, target: _Target) -> Link | None:
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                link = await dial(self._network, self._hello(), target.address, self._receive_into)
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a host that is no host's name
            _log.log(
                logging.INFO if target.is_seed else logging.DEBUG,
                "no node at %s:%d: %s", *target.address, str(error) or type(error).__name__,
            )  # fmt: skip
            return None
        if not self._welcome(target, link):
            link.protocol.close()
            return None
        return link

    def _welcome(self, target: _Target, link: Link) -> bool:
        """Whether the node that answered is one to stay connected to."""
        me, hello = self._hello(), link.hello
        if hello.id == me.id:
            if hello.boot != me.boot:
                self._on_twin(hello)
            self._targets.pop(target.address, None)  # this node itself, or a clone of it: nobody to talk to
            return False
        held = self._links.get(hello.id)
        if held is not None and not held.lost.is_set():
            if held.hello.boot == hello.boot:
                if not target.is_seed:
                    self._targets.pop(target.address, None)  # another way to the same node
                return False
            held.protocol.abort("the node has restarted")
        peer = (hello.peer_host or target.address[0], hello.peer_port)
        http = (hello.http_host or target.address[0], hello.http_port)
        if not self._membership.met(asyncio.get_running_loop().time(), hello, peer, http):
            return False
        self._links[hello.id] = link
        self._on_change()
        return True

    async def _stay(self, link: Link) -> None:
        node, boot = link.hello.id, link.hello.boot
        loop = asyncio.get_running_loop()
        answered_at = loop.time()
        try:
            while not link.lost.is_set():
                asked_at = loop.time()
                if await self._ping(link):
                    answered_at = loop.time()
                elif loop.time() - answered_at > DEAD_AFTER_S:
                    # TCP would go on trying, less and less often: after a minute's cut, for a minute more.
                    link.protocol.abort("no answer")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(link.lost.wait(), max(0.0, asked_at + PING_INTERVAL_S - loop.time()))
        finally:
            link.protocol.close()
            if self._links.get(node) is link:
                del self._links[node]
                self._membership.lost(loop.time(), node, boot)
                self._on_change()

    async def _ping(self, link: Link) -> bool:
        """Whether it answers; and what it knows that this node does not."""
        digest = self._gossip.digest()
        answered = await link.ask(messages.Ping(digest, 0), PING_INTERVAL_S)
        if answered is None or not isinstance(answered.answer, messages.Ack):
            return False
        link.is_slow = False
        was_alive = self._membership.is_alive(link.hello.id)
        self._membership.answered(asyncio.get_running_loop().time(), link.hello.id, answered.answer.used_bytes)
        if not was_alive:  # perhaps it was dead, and is in the ring again
            self._on_change()
        if answered.answer.digest in (digest, link.merged_digest):
            return True
        state = await link.ask(messages.GetState(), PING_INTERVAL_S)
        if state is not None and isinstance(state.answer, messages.State):
            try:
                self._heard_state(state.answer)
                link.merged_digest = answered.answer.digest
            except RemoteProtocolError as error:
                self.offended(link, error)
        return True

    def _has_left(self, hello: Hello) -> bool:
        member = self._membership.get(hello.id)
        return member is not None and member.boot == hello.boot and member.state == "left"

    # -- what others ask through --------------------------------------------------------------------------------

    def nodes(self) -> Sequence[NodeId]:
        """The members with an open connection, the healthy first."""
        return sorted(self._links, key=lambda node: (not self.is_healthy(node), node))

    def link(self, node: NodeId) -> Link | None:
        """The open connection to `node`."""
        return self._links.get(node)

    def is_healthy(self, node: NodeId) -> bool:
        """Whether `node` answers, as far as the last second tells."""
        link = self._links.get(node)
        return link is not None and not link.is_slow and self._membership.is_alive(node)

    async def tell_all(self, message: Message, timeout_s: float) -> None:
        """Say `message` to every member at once, and wait for their answers."""
        await asyncio.gather(*(link.ask(message, timeout_s) for link in tuple(self._links.values())))

    def offended(self, link: Link, error: RemoteProtocolError) -> None:
        """The other side broke the rules: count it and end this connection."""
        self._stats.protocol_errors += 1
        _log.warning("closing the connection to %r: %s", link.hello.name, error)
        link.protocol.abort(str(error))

    # -- the end ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End every connection and dial no more."""
        self._is_closed = True
        tasks = [target.task for target in self._targets.values() if target.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in tuple(self._links.values()):
            link.protocol.close()
