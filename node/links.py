"""Connections to members: dialled when somebody is to be asked, kept while there is room, closed when idle.

Each node asks through the connections that it dialled and answers on those that others dialled. Strangers (seeds,
remembered peers, whoever is heard of by mDNS) are dialled once, to meet them; from then on the members tell each other
of them, and who is alive is found out without connections (`probing.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..protocol import messages
from ..protocol.errors import RemoteProtocolError
from .link import dial, shown
from .tasks import Tasks

if TYPE_CHECKING:
    from ..protocol.messages import Hello, Message
    from .link import Address, Link, Network
    from .membership import Membership
    from .ring import NodeId
    from .sightings import Sighting
    from .stats import Stats

DIAL_TIMEOUT_S = 2.0
# Redial after 0.1, 0.2, 0.4 … s: who is about to start is met within a second; who is off costs little.
REDIAL_FIRST_S = 0.1
REDIAL_MAX_S = 30.0
GIVE_UP_AFTER_S = 3600.0
STRANGERS_MAX = 256
STRANGERS_AT_ONCE = 8
REMEMBERED_AT_ONCE = 4  # apart from the others: a device that was moved remembers many that are not here
# A newcomer hears everybody announce himself. It calls a few at once, and the others in turn, until one has told it of
# them.
MEET_AT_ONCE = 2
MEET_GAP_S = 0.02
# And everybody hears it. Members wait whether one of them tells of it, which 300 hear in a second: so few call it.
MEET_SPREAD_S = 0.1  # for each member
MEET_SPREAD_MAX_S = 30.0
SEED_CHECKED_S = 30.0
# Open connections kept, the longest unused closed first. 5 KB each; a new one costs a round trip or two, and with TLS
# 2 ms of processor time on each side.
LINKS_MAX = 64
LINK_IDLE_S = 300.0
# One that could not be dialled is passed over for so long, unless it has been heard of since.
SHUN_S = 1.0
TOLD_AT_ONCE_MAX = 32  # members that are told of something directly; the next when one of them has answered
# Who is given no longer than it should take is given this at least, and that where there is no connection yet.
TOLD_S_MIN, TOLD_S_DIALLED = 0.05, 0.5
PING_S = 1.0
NO_ANSWER_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Stranger:
    """An address where somebody may be whom this node has not met."""

    sighting: Sighting
    is_seed: bool
    is_remembered: bool
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    met: NodeId = ""
    timer: asyncio.TimerHandle | None = None
    """Until the first call is due: most are told of by others before."""
    task: asyncio.Task[None] | None = None

    def give_up(self) -> None:
        """Call no more."""
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            self.task.cancel()


class Links:
    """Every connection that this node dialled."""

    def __init__(
        self,
        *,
        hello: Callable[[], Hello],
        network: Network,
        membership: Membership,
        stats: Stats,
        rng: random.Random,
        on_met: Callable[[Link], None],
        on_stranger: Callable[[Link], Awaitable[object]],
        on_lost: Callable[[NodeId], None],
        on_twin: Callable[[Hello], None],
        receive_into: Callable[[int], memoryview],
    ) -> None:
        """`on_met` hears of every handshake, `on_stranger` after it of one with somebody new; `on_lost` of members'
        connections that broke.
        """
        self._hello = hello
        self._network = network
        self._membership = membership
        self._stats = stats
        self._rng = rng
        self._on_met = on_met
        self._on_stranger = on_stranger
        self._on_lost = on_lost
        self._on_twin = on_twin
        self._receive_into = receive_into
        self._strangers: dict[Address, _Stranger] = {}
        self._at_once = {False: asyncio.Semaphore(STRANGERS_AT_ONCE), True: asyncio.Semaphore(REMEMBERED_AT_ONCE)}
        self._links: dict[NodeId, Link] = {}
        self._used_at: dict[NodeId, float] = {}  # of the open ones, the longest unused first
        self._tidied_version = -1  # of the membership; -1 when a connection came since that leads to no member
        self._dialling: dict[NodeId, asyncio.Task[Link | None]] = {}
        self._shunned: dict[NodeId, float] = {}
        self._tasks: Tasks[None] = Tasks()
        self._is_closed = False

    # -- strangers ----------------------------------------------------------------------------------------------

    def sighted(self, sighting: Sighting, *, is_seed: bool = False, is_remembered: bool = False) -> None:
        """Somebody may be there: dial, unless that is known to be a member, or there is no room."""
        if self._is_closed or (not is_seed and self._is_known(sighting)):
            return
        stranger = self._strangers.get(sighting.address)
        if stranger is not None:
            stranger.wake.set()
            return
        if len(self._strangers) >= STRANGERS_MAX and not self._make_room():
            return
        stranger = _Stranger(sighting, is_seed, is_remembered)
        self._strangers[sighting.address] = stranger
        spread_s = 0.0 if is_seed else self._spread_s()
        if spread_s:
            loop = asyncio.get_running_loop()
            stranger.timer = loop.call_later(self._rng.uniform(0.0, spread_s), self._start_meeting, stranger)
        else:
            self._start_meeting(stranger)

    def _start_meeting(self, stranger: _Stranger) -> None:
        stranger.timer = None
        if self._is_met(stranger):
            del self._strangers[stranger.sighting.address]
        else:
            stranger.task = asyncio.ensure_future(self._meet(stranger))

    def _is_known(self, sighting: Sighting) -> bool:
        """Whether that is this node, or a member that is well."""
        if sighting.id == self._membership.me:
            return sighting.boot == self._membership.boot
        member = self._membership.get(sighting.id)
        return (
            member is not None
            and member.is_in_ring
            and (member.boot == sighting.boot if sighting.boot else member.peer == sighting.address)
        )

    def _make_room(self) -> bool:
        """Give up the stranger that has been one for longest."""
        given_up = next((stranger for stranger in self._strangers.values() if not stranger.is_seed), None)
        if given_up is None:
            return False
        given_up.give_up()
        del self._strangers[given_up.sighting.address]
        return True

    async def _meet(self, stranger: _Stranger) -> None:
        """Dial until somebody answers; a seed's address is looked after for good."""
        loop = asyncio.get_running_loop()
        redial_s, began_at = REDIAL_FIRST_S, loop.time()
        try:
            while not self._is_closed and (stranger.is_seed or loop.time() - began_at < GIVE_UP_AFTER_S):
                async with self._at_once[stranger.is_remembered]:
                    is_met = self._is_met(stranger) or await self._dial_stranger(stranger)
                if is_met and not stranger.is_seed:
                    return
                if is_met:
                    redial_s = REDIAL_FIRST_S
                    await asyncio.sleep(SEED_CHECKED_S)
                    continue
                # A sighting ends the wait, but not the first of it: sightings cost nothing to make up.
                await asyncio.sleep(REDIAL_FIRST_S)
                stranger.wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stranger.wake.wait(), redial_s * self._rng.uniform(0.8, 1.2))
                redial_s = min(2 * redial_s, REDIAL_MAX_S)
        finally:
            if self._strangers.get(stranger.sighting.address) is stranger:
                del self._strangers[stranger.sighting.address]

    def _spread_s(self) -> float:
        """How long a stranger waits to be called, at most: perhaps another tells of it."""
        if self._membership.in_ring_ids:
            return min(MEET_SPREAD_MAX_S, MEET_SPREAD_S * self._membership.size)
        return max(0, len(self._strangers) - MEET_AT_ONCE) * MEET_GAP_S

    def _is_met(self, stranger: _Stranger) -> bool:
        if stranger.met:
            member = self._membership.get(stranger.met)
            return stranger.met == self._membership.me or (member is not None and member.is_in_ring)
        return not stranger.is_seed and self._is_known(stranger.sighting)

    async def _dial_stranger(self, stranger: _Stranger) -> bool:
        address = stranger.sighting.address
        try:
            link = await self._dial(address)
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a host that is no host's name
            _log.log(
                logging.INFO if stranger.is_seed else logging.DEBUG,
                "no node at %s: %s", shown(address), str(error) or type(error).__name__,
            )  # fmt: skip
            return False
        stranger.met = link.hello.id
        if self._welcome(link):
            await self._on_stranger(link)
        return True

    # -- members ------------------------------------------------------------------------------------------------

    async def to(self, node: NodeId, timeout_s: float) -> Link | None:
        """The connection to `node`, dialled if need be; None if there is none in time."""
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            return await self._connected(node, timeout_s)
        return None

    async def at(self, node: NodeId, address: Address, timeout_s: float) -> Link | None:
        """The connection to `node`, which is said to be at `address`, whether it is a member or not."""
        member = self._membership.get(node)
        if node in self._links or (member is not None and member.peer == address):
            return await self.to(node, timeout_s)
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(timeout_s):
                self._welcome(await self._dial(address))
        return self._links.get(node)

    async def _connected(self, node: NodeId, timeout_s: float) -> Link | None:
        if (link := self.link(node)) is not None:
            return link
        member = self._membership.get(node)
        if self._is_closed or member is None or timeout_s <= 0:
            return None
        task = self._dialling.get(node)
        if task is None:
            task = asyncio.ensure_future(self._dial_member(node, member.peer))
            self._dialling[node] = task
            task.add_done_callback(lambda done: self._dialled(node, done))
        done, _ = await asyncio.wait([task], timeout=timeout_s)  # others may wait for it too: never cancelled here
        return task.result() if done and not task.cancelled() else None

    async def _dial_member(self, node: NodeId, address: Address) -> Link | None:
        self._welcome(await self._dial(address))
        return self._links.get(node)

    def _dialled(self, node: NodeId, task: asyncio.Task[Link | None]) -> None:
        del self._dialling[node]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("no connection to %s: %s", node[:8], str(error) or type(error).__name__)
            self._shunned[node] = asyncio.get_running_loop().time() + SHUN_S
            while len(self._shunned) > LINKS_MAX:
                del self._shunned[next(iter(self._shunned))]

    async def _dial(self, address: Address) -> Link:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            return await dial(self._network, self._hello(), address, self._receive_into)

    def _welcome(self, link: Link) -> bool:
        """Keep a new connection, unless it leads to this node itself, a clone of it, or where one leads already."""
        me, hello = self._membership, link.hello
        if hello.id == me.me:
            if hello.boot != me.boot:
                self._on_twin(hello)
            link.protocol.close()
            return False
        held = self._links.get(hello.id)
        if held is not None and held.hello.boot == hello.boot:
            link.protocol.close()
            return False
        if held is not None:
            held.protocol.abort("the node has restarted")
        self._links[hello.id] = link
        self._shunned.pop(hello.id, None)
        self._touch(hello.id)
        self._tasks.start(self._watch(link))
        self._on_met(link)
        if not self._is_of_use(link):
            self._tidied_version = -1
        return True

    async def _watch(self, link: Link) -> None:
        """Wait for its end; while a request has run out of time, ask each second whether that is over."""
        loop = asyncio.get_running_loop()
        node = link.hello.id
        try:
            while not link.lost.is_set():
                await link.changed.wait()
                link.changed.clear()
                slow_since = loop.time()
                while link.is_slow and not link.lost.is_set():
                    asked_at = loop.time()
                    if await link.ask(messages.Ping(b"", 0), PING_S) is not None:
                        link.is_slow = False
                    elif asked_at - slow_since > NO_ANSWER_S:
                        # TCP would go on trying, less and less often: after a minute's cut, for a minute more.
                        link.protocol.abort("no answer")
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(link.lost.wait(), max(0.0, asked_at + PING_S - loop.time()))
        finally:
            link.protocol.close()
            if self._links.get(node) is link:
                del self._links[node]
                del self._used_at[node]
                if not link.was_closed_here and not self._is_closed:
                    self._on_lost(node)

    def _touch(self, node: NodeId) -> None:
        self._used_at.pop(node, None)
        self._used_at[node] = asyncio.get_running_loop().time()

    def tidy(self, now: float) -> None:
        """Close what leads to nobody in the ring, what has been idle for long, and what is too much."""
        surplus = len(self._links) - LINKS_MAX
        is_as_before, self._tidied_version = self._tidied_version == self._membership.version, self._membership.version
        closing = []
        for node, used_at in self._used_at.items():
            if is_as_before and surplus <= 0 and now - used_at < LINK_IDLE_S:
                break  # all that follow were used since
            link = self._links[node]
            if self._is_of_use(link) and (link.is_busy or (now - used_at < LINK_IDLE_S and surplus <= 0)):
                continue
            surplus -= 1
            closing.append(link)
        for link in closing:
            link.was_closed_here = True
            link.protocol.close()

    def _is_of_use(self, link: Link) -> bool:
        """Whether it leads to the boot of a member that is in the ring."""
        member = self._membership.get(link.hello.id)
        return member is not None and member.is_in_ring and member.boot == link.hello.boot

    # -- what others ask through --------------------------------------------------------------------------------

    def nodes(self) -> Sequence[NodeId]:
        """The members in the ring, the healthy first."""
        return sorted(self._membership.in_ring_ids, key=lambda node: (not self.is_healthy(node), node))

    def link(self, node: NodeId) -> Link | None:
        """The open connection to `node`, if there is one; it counts as used."""
        link = self._links.get(node)
        if link is not None:
            self._touch(node)
        return link

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._links)

    def is_healthy(self, node: NodeId) -> bool:
        """Whether `node` is worth waiting for, as far as is known."""
        link = self._links.get(node)
        if link is not None:
            return not link.is_slow and self._membership.is_alive(node)
        until = self._shunned.get(node)
        return self._membership.is_alive(node) and (until is None or until <= asyncio.get_running_loop().time())

    async def call(self, node: NodeId, timeout_s: float) -> bool | None:
        """Ask `node` over TCP whether it is there: True if it says so, False if nobody listens, None for silence."""
        try:
            link = await self._connected(node, timeout_s)
        except ConnectionRefusedError:
            return False
        except (OSError, TimeoutError, ValueError):
            return None
        return True if link is not None and await link.ask(messages.Ping(b"", 0), timeout_s) is not None else None

    async def tell(
        self,
        message: Message,
        timeout_s: float,
        *,
        open_only: bool = False,
        patience_s: Callable[[NodeId], float] | None = None,
    ) -> None:
        """Say `message` to all members, the healthy first, and wait for their answers, `timeout_s` for each.

        With `patience_s` each for no longer than that, if it is healthy; the rest goes on behind.
        """
        nodes = list(self._links) if open_only else self.nodes()
        room = asyncio.Semaphore(TOLD_AT_ONCE_MAX)

        async def tell(node: NodeId) -> None:
            link = await self.to(node, timeout_s)
            if link is not None:
                await link.ask(message, timeout_s)

        async def tell_in_turn(node: NodeId) -> None:
            async with room:
                if patience_s is None:
                    await tell(node)
                elif not self.is_healthy(node):
                    self._tasks.start(tell(node))
                else:
                    usual_s = max(patience_s(node), TOLD_S_MIN) if node in self._links else TOLD_S_DIALLED
                    await asyncio.wait({self._tasks.start(tell(node))}, timeout=usual_s)

        await asyncio.gather(*(tell_in_turn(node) for node in nodes))

    def offended(self, link: Link, error: RemoteProtocolError) -> None:
        """The other side broke the rules: count it and end this connection."""
        self._stats.protocol_errors += 1
        _log.warning("closing the connection to %r: %s", link.hello.name, error)
        link.protocol.abort(str(error))

    # -- the end ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End every connection and dial no more."""
        self._is_closed = True
        for stranger in self._strangers.values():
            stranger.give_up()
        tasks: list[asyncio.Task[None] | asyncio.Task[Link | None]] = [
            *(stranger.task for stranger in self._strangers.values() if stranger.task is not None),
            *self._dialling.values(),
            *self._tasks,
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in tuple(self._links.values()):
            link.protocol.close()
