"""Who else there is: what this node says of itself, and what follows from what others say of themselves and others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..protocol import messages
from .link import shown
from .membership import State
from .ring import Ring
from .sightings import Sighting

if TYPE_CHECKING:
    from .directory import Directory
    from .gossip import Gossip, Heard
    from .heartbeat import Heartbeat
    from .identity import Identity
    from .lasting import Lasting
    from .lease_desk import LeaseDesk
    from .link import Address, Link
    from .links import Links
    from .membership import Member, Membership
    from .neighbourhood import Neighbourhood
    from .peer_protocol import PeerProtocol
    from .ring import NodeId
    from .settings import Settings
    from .validity import Sweep

_log = logging.getLogger(__name__)


class Roster:
    """Has a node's parts follow as others come, change and go."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        *,
        address: Callable[[], Address],
        placed_bytes: int,
        membership: Membership,
        gossip: Gossip,
        links: Links,
        heartbeat: Heartbeat,
        directory: Directory,
        neighbourhood: Neighbourhood,
        desk: LeaseDesk,
        sweep: Sweep,
        lasting: Lasting,
    ) -> None:
        """`address`: where this node listens for peers. `placed_bytes`: what the ring takes its capacity to be."""
        self.twin = asyncio.Event()
        """Set when another live node turns out to have this node's id, and this one is the newer."""
        self._settings = settings
        self._id = identity.id
        self._boot = identity.boot
        self._address = address
        self._placed_bytes = placed_bytes
        self._membership = membership
        self._gossip = gossip
        self._links = links
        self._heartbeat = heartbeat
        self._directory = directory
        self._neighbourhood = neighbourhood
        self._desk = desk
        self._sweep = sweep
        self._lasting = lasting
        self._said: messages.Hello | None = None
        self._ring = Ring({}, settings.copies)
        self._ring_version = -1

    # -- what this node says of itself ----------------------------------------------------------------------------

    def introduce(self) -> None:
        """This node listens now, and is a member of its own cluster."""
        self._said = self._introduction()
        self._membership.introduce(self._said)

    def hello(self) -> messages.Hello:
        """What is said on each connection; the same as soon as this node listens."""
        return self._said or self._introduction()

    def _introduction(self) -> messages.Hello:
        peer_host, peer_port = self._address()
        http_host, http_port = self._settings.http
        return messages.Hello(
            protocol=messages.PROTOCOL_VERSION,
            cluster=self._settings.cluster,
            id=self._id,
            boot=self._boot,
            name=self._settings.name,
            peer_host=_told(peer_host),
            peer_port=peer_port,
            http_host=_told(http_host),
            http_port=http_port,
            capacity_bytes=self._placed_bytes,
            abilities=self._settings.abilities,
        )

    # -- what others say ------------------------------------------------------------------------------------------

    def met(self, link: Link) -> None:
        """A handshake with whoever this node dialled."""
        hello, remote_host = link.hello, link.protocol.remote_host
        peer = (hello.peer_host or remote_host, hello.peer_port)
        http = (hello.http_host or remote_host, hello.http_port)
        self.changed(self._membership.met(asyncio.get_running_loop().time(), hello, peer, http))

    def greeted(self, protocol: PeerProtocol, hello: messages.Hello) -> None:
        """Somebody dialled this node: it is worth a call back, unless it is this node itself or a clone of it."""
        if hello.id == self._id:
            if hello.boot != self._boot:
                self.met_twin(hello)
            protocol.close("this node has the same id")
        elif self._settings.is_cloud and hello.peer_port:
            protocol.close("this is a cloud node, which has no members: use it by --cloud edgecache://HOST:PORT")
        elif 0 < hello.peer_port < 65536:
            address = (hello.peer_host or protocol.remote_host, hello.peer_port)
            self._links.sighted(Sighting(hello.id, hello.boot, hello.name, address))

    def met_twin(self, hello: messages.Hello) -> None:
        """Another node has this node's id."""
        _log.error("node %r has this node's id %s: a cloned disk image?", hello.name, self._id)
        if self._boot > hello.boot:
            self.twin.set()

    def left(self, node: NodeId) -> None:
        """A member has said goodbye."""
        if (member := self._membership.get(node)) is not None:
            self.changed([member])

    def heard_state(self, state: messages.State) -> None:
        """All that a peer knows."""
        self.heard(self._gossip.merge(asyncio.get_running_loop().time(), state))

    def heard_removed(self, part: messages.RemovedPart) -> None:
        """A part of the removals that a peer knows."""
        self.heard(self._gossip.merge_removed(asyncio.get_running_loop().time(), part))

    def heard(self, heard: Heard) -> None:
        """What came of anything that was heard."""
        for sighting in heard.to_call:
            self._links.sighted(sighting)
        if heard.outdated:
            self._sweep.outdated()
        self._sweep.removed(heard.removed)
        self.changed(heard.changed)
        if heard.changed or heard.outdated or heard.removed:
            self._heartbeat.spread()
        if heard.is_all:
            self._lasting.caught_up()

    # -- what follows ---------------------------------------------------------------------------------------------

    def changed(self, members: list[Member]) -> None:
        """These are not what they were."""
        for member in members:
            if member.state is not State.ALIVE:
                self._desk.gone(member.id)
            else:
                self._neighbourhood.is_back(member.id)
                self._lasting.met(member)
            _log.info(
                "member %r at %s is %s (%d in the ring)",
                member.name, shown(member.peer), member.state, self._membership.size,
            )  # fmt: skip
            if not member.is_in_ring:
                self._directory.forget(member.id)
        if any(not member.is_in_ring for member in members):
            self._links.tidy(asyncio.get_running_loop().time())

    def ring(self) -> Ring:
        """The ring of the members that there are now; made when it is needed."""
        if self._ring_version != self._membership.version:
            self._ring_version = self._membership.version
            capacities = {member.id: member.capacity_bytes for member in self._membership.in_ring()}
            capacities[self._id] = self._placed_bytes
            ring = Ring(capacities, self._settings.copies)
            if ring.virtual_nodes != self._ring.virtual_nodes:
                self._ring = ring
        return self._ring


def _told(host: str) -> str:
    """A host as others are told it: "" for every interface, since they know best through which they came."""
    return "" if host in ("0.0.0.0", "::", "") else host
