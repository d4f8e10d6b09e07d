"""The shell: owns a node's sockets, tasks and timers; decides nothing.

It is given its network, discovery and encoder: a real process gives TCP, mDNS and torch, a simulation an in-memory
network on virtual time. The clock is the running loop's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..protocol import messages
from ..protocol import payload as payloads
from . import status
from .address_book import AddressBook
from .conversions import Conversions
from .cost import Costs
from .directory import Directory
from .eviction.policies import POLICIES
from .following import Following
from .gossip import Gossip
from .handover import hand_over
from .heartbeat import Heartbeat
from .inbound import Inbound
from .interfaces import is_loopback
from .journal import Journal
from .known_encoders import KnownEncoders
from .lasting import Lasting
from .lease_desk import LeaseDesk
from .link import Address, Network, Server
from .links import Links
from .lookup import Lookup
from .membership import Membership, State
from .moving import Moving
from .neighbourhood import LATE_FACTOR, Neighbourhood
from .owed import Owed
from .partials import Partials
from .peers import Peers
from .prefetch import Prefetcher
from .prefetching import Prefetching
from .pressure import Reading
from .remembered_removals import RememberedRemovals
from .remembered_versions import RememberedVersions
from .removals import Removals
from .resizing import Resizing
from .responder import Responder
from .ring import Ring
from .roster import Roster
from .rumors import Rumors
from .settings import LocalEncoder, Settings
from .sightings import Announcement, Discovery, Sighting
from .similar import Similar
from .stand_ins import StandIns
from .stats import Stats
from .store.arena import Arena
from .store.memory import MemoryStore
from .store.tiers import Tiers
from .tasks import Tasks
from .validity import Sweep, Validity
from .versions import Versions

if TYPE_CHECKING:
    from ..protocol.conversion import Conversion
    from ..protocol.keys import EncoderIdentity
    from ..protocol.payload import Payload
    from .identity import Identity
    from .store.tier import Cloud, DiskTier

HOUSEKEEPING_S = 1.0
BINDS_MAX = 5  # the port that is free for TCP may be taken for UDP
HANDOVER_TIMEOUT_S = 10.0
GOODBYE_TIMEOUT_S = 1.0
DEMOTE_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


class Node:
    """One member of the cluster, from `start` to `leave`. What its HTTP face sees is `face.NodeFace`."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        *,
        network: Network,
        discovery: Discovery | None,
        encoder: LocalEncoder | None,
        address_book: AddressBook,
        seed: str,
        stats: Stats | None = None,
        remembered: RememberedVersions | None = None,
        remembered_removals: RememberedRemovals | None = None,
        hour: Callable[[], int] | None = None,
        memory: MemoryStore | None = None,
        disk: DiskTier | None = None,
        no_disk: str | None = None,
        cloud: Cloud | None = None,
        conversions: Sequence[Conversion] = (),
        pressure: Callable[[], Reading] | None = None,
        pack: Callable[..., Payload] = payloads.encode,
    ) -> None:
        """`memory`: where it is not the usual one; a simulation gives one that holds no bodies.

        `pack` quantises what the encoder made; a simulation gives one that knows the outcome.

        `pressure` reads what memory the device has left; without it the store keeps what it was given.

        `no_disk`: why there is no `disk`, where there should be one.

        `hour`: that of the day, by which habits go; the loop's where it is not given.
        """
        loop = asyncio.get_running_loop()
        self.name = settings.name
        self.id = identity.id
        self.boot = identity.boot
        self.stats = stats if stats is not None else Stats()
        self.versions = Versions()
        self._conversions = Conversions(conversions)
        if memory is None:
            policy = POLICIES[settings.eviction](settings.memory_bytes)
            memory = MemoryStore(settings.memory_bytes, policy, Arena(settings.memory_bytes))
        self.removals = Removals(random.Random(f"{seed}:{self.id}:{self.boot}:removals"))
        validity = Validity(self.versions, self.removals, self._conversions)
        hour = hour if hour is not None else lambda: int(loop.time() // 3600) % 24
        self.store = Tiers(memory, disk=disk, cloud=cloud, is_wanted=validity.is_wanted, hour=hour)
        self.resizing = Resizing(memory, pressure)
        # What the ring is made of must be the same on every member, so it stays what it was at the start.
        placed_bytes = self.store.capacity_bytes
        self._sweep = Sweep(validity, self.store, self.versions, self.removals, loop.time)
        self.lasting = Lasting(
            store=self.store,
            sweep=self._sweep,
            versions=self.versions,
            removals=self.removals,
            told_versions=remembered or RememberedVersions(None),
            told_removals=remembered_removals or RememberedRemovals(None, loop.time),
            address_book=address_book,
            expects_others=discovery is not None or bool(settings.seeds),
            now=loop.time,
        )
        self._stand_ins = StandIns(self._conversions, self.store, self.name)
        rumors = Rumors()
        self.membership = Membership(self.id, self.boot, rumors, tells_loopback=is_loopback(settings.peer_listen[0]))
        self._settings = settings
        self._network = network
        self._discovery = discovery
        self._encoder = encoder
        self._no_disk = no_disk
        self._gossip = Gossip(self.membership, self.versions, self.removals, rumors)
        self._links = Links(
            hello=lambda: self._roster.hello(),
            network=network,
            membership=self.membership,
            stats=self.stats,
            rng=random.Random(f"{seed}:{self.id}:links"),
            on_met=lambda link: self._roster.met(link),
            on_stranger=lambda link: self._heartbeat.exchange(link),
            on_lost=lambda node: self._heartbeat.lost(node),
            on_twin=lambda hello: self._roster.met_twin(hello),
            receive_into=memory.arriving,
        )
        journal = Journal(self.boot, self.store.__contains__)
        self.store.tell_changes(journal.touch)
        self.directory = Directory(self.id, journal)
        self._following = Following(self.directory, self.membership, self._links)
        self._heartbeat = Heartbeat(
            membership=self.membership,
            gossip=self._gossip,
            following=self._following,
            rumors=rumors,
            links=self._links,
            stats=self.stats,
            rng=random.Random(f"{seed}:{self.id}:heartbeat"),
            used_bytes=lambda: self.store.used_bytes,
            on_heard=lambda heard: self._roster.heard(heard),
            on_change=lambda members: self._roster.changed(members),
            on_timed=lambda node, seconds: self._costs.answered(loop.time(), node, seconds),
        )
        self._similar = Similar()
        self._peers = Peers(
            self._links,
            self.membership,
            self._following,
            self.stats,
            self._sweep.restamped,
            Partials.beside(memory.capacity_bytes),
            self._similar,
            self.store.peek,
        )
        self._costs = Costs(settings.prices)
        self._neighbourhood = Neighbourhood(
            self.id,
            peers=self._peers,
            ring=self.ring,
            costs=self._costs,
            rng=random.Random(f"{seed}:{self.id}:breakers"),
            now=loop.time,
        )
        self.desk = LeaseDesk(self._neighbourhood, held=self.store.peek, now=loop.time)
        self._roster = Roster(
            settings,
            identity,
            address=lambda: self.peer_address,
            placed_bytes=placed_bytes,
            membership=self.membership,
            gossip=self._gossip,
            links=self._links,
            heartbeat=self._heartbeat,
            directory=self.directory,
            neighbourhood=self._neighbourhood,
            desk=self.desk,
            sweep=self._sweep,
            lasting=self.lasting,
        )
        self.twin = self._roster.twin
        owed = Owed()
        self.moving = Moving(
            self.id,
            store=self.store,
            ring=self.ring,
            owed=owed,
            boots=lambda: {member.id: member.boot for member in self.membership.in_ring()},
            neighbourhood=self._neighbourhood,
            stats=self.stats,
            now=loop.time,
        )
        self._encoders = KnownEncoders(
            encoder,
            versions=self.versions,
            store=self.store,
            links=self._links,
            gossip=self._gossip,
            heartbeat=self._heartbeat,
            sweep=self._sweep,
            lasting=self.lasting,
            patience_s=lambda node: LATE_FACTOR * self._costs.hedge_after_s(node),
        )
        self._neighbourhood.former_holders = self.moving.former_holders
        self._neighbourhood.unsettled_holders = self.moving.unsettled_holders
        self.lookup = Lookup(
            name=self.name,
            store=self.store,
            neighbourhood=self._neighbourhood,
            desk=self.desk,
            encoder=encoder,
            versions=self.versions,
            removals=self.removals,
            stand_ins=self._stand_ins,
            now=loop.time,
            stats=self.stats,
            pack=pack,
            owed=owed,
        )
        self._prefetching = Prefetching(
            Prefetcher(memory.capacity_bytes),
            fetch=self.lookup.fetch_ahead,
            is_held=memory.__contains__,
            now=loop.time,
            hour=hour,
        )
        self.resizing.on_resized = self._prefetching.resized
        self.lookup.on_asked = self._asked_by_stream
        self.responder = Responder(
            store=self.store,
            lookup=self.lookup,
            membership=self.membership,
            desk=self.desk,
            gossip=self._gossip,
            journal=journal,
            versions=self.versions,
            stats=self.stats,
            now=loop.time,
            heard_state=self._roster.heard_state,
            is_cloud=settings.is_cloud,
            heard_removed=self._roster.heard_removed,
        )
        self._inbound = Inbound(
            hello=self._roster.hello,
            responder=self.responder,
            stats=self.stats,
            receive_into=memory.arriving,
            on_greeted=self._roster.greeted,
            on_leave=self._roster.left,
            on_lost=self.desk.gone,
        )
        self._server: Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._late: Tasks[None] = Tasks()
        self._renewing: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._housekeeping: asyncio.TimerHandle | None = None
        self._is_leaving = False

    # -- start --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, look for the others, and soon load the encoder. OSError when the peer port cannot be had."""
        await self._listen()
        self._roster.introduce()
        for seed in self._settings.seeds:
            self._links.sighted(Sighting("", "", "", seed), is_seed=True)
        for known in self.lasting.peers():
            self._links.sighted(Sighting(known.id, "", known.name, known.address), is_remembered=True)
        if self._discovery is not None:
            me = Announcement(
                id=self.id,
                boot=self.boot,
                name=self.name,
                cluster=self._settings.cluster,
                protocol_version=messages.PROTOCOL_VERSION,
                peer_port=self.peer_address[1],
                http_port=self._settings.http[1],
            )
            await self._discovery.start(me, self._links.sighted)
        self._tasks.append(asyncio.ensure_future(self._encoders.load()))
        self._housekeeping = asyncio.get_running_loop().call_later(HOUSEKEEPING_S, self._keep_time)
        self._tasks.append(asyncio.ensure_future(self.lasting.recall()))
        self._tasks.append(asyncio.ensure_future(self.resizing.watch()))

    async def _listen(self) -> None:
        """For connections, and where there may be members, for datagrams at the same port."""
        for attempt in range(1, BINDS_MAX + 1):
            self._server = await self._network.listen(self._inbound.protocol, self._settings.peer_listen)
            if self._settings.is_cloud:
                return
            try:
                await self._heartbeat.start(self._network, self._server.address)
                return
            except OSError:
                self._server.close()
                if self._settings.peer_listen[1] or attempt == BINDS_MAX:
                    raise

    def _keep_time(self) -> None:
        """Each second; a task only where there is something to wait for."""
        loop = asyncio.get_running_loop()
        self._housekeeping = loop.call_later(HOUSEKEEPING_S, self._keep_time)
        now = loop.time()
        self._links.tidy(now)
        self.removals.tick(now)
        if not self._settings.is_cloud:
            self.moving.tick(self.membership.version)
        self._inbound.tidy(now)
        self.store.tell_uses()
        if len(self._stand_ins.renewals) and (self._renewing is None or self._renewing.done()):
            self._renewing = self._late.start(self.lookup.renew())
        if self.lasting.has_news(now) and (self._saving is None or self._saving.done()):
            self._saving = self._late.start(self.lasting.save())

    def ring(self) -> Ring:
        """The ring of the members that there are now."""
        return self._roster.ring()

    @property
    def peer_address(self) -> Address:
        """Where this node listens for peers."""
        assert self._server is not None
        return self._server.address

    # -- encoders -------------------------------------------------------------------------------------------------

    async def own_encoder(self) -> EncoderIdentity | None:
        """The identity of this node's encoder; waits while a model that must be read loads. EncoderUnavailable."""
        return await self._encoders.own()

    async def ask_cloud_for(self, name: str | None, version: str | None) -> bool:
        """Learn of encoders of that name and version, or of any, from the cloud; whether it told of one."""
        return await self._encoders.ask_cloud_for(name, version)

    async def introduce(self, encoder: EncoderIdentity) -> None:
        """Have every member know `encoder`, whose features a user has brought, if it is news to this node."""
        await self._encoders.introduce(encoder)

    async def invalidate(self, name: str, version: str) -> int:
        """Make `version` of encoder `name` current on every member; how many entries went on this node."""
        return await self._encoders.invalidate(name, version)

    # -- what the HTTP face shows -------------------------------------------------------------------------------

    def is_serving(self) -> tuple[bool, Mapping[str, str]]:
        """Whether this node should be sent requests, and the state of its parts."""
        alive = sum(member.state is State.ALIVE for member in self.membership.all())
        disk = self.store.disk
        trouble = self._no_disk if disk is None else disk.tier.trouble
        parts = {
            "node": "leaving" if self._is_leaving else "serving",
            "encoder": self._encoders.state,
            "members": str(alive + 1),
            "disk": f"degraded: {trouble}" if trouble else "none" if disk is None else "ok",
        }
        if (cloud := self.store.cloud_state) is not None:
            parts["cloud"] = cloud
        return not self._is_leaving, parts

    def _asked_by_stream(self, stream: str, key: bytes) -> None:
        self._similar.asked(stream, key)
        self._prefetching.asked(stream, key)

    def cluster(self) -> dict[str, Any]:
        """This node, the members as it sees them (itself too), and the ring."""
        settings, shown = self._settings, self._settings.shown_host
        me = status.member(
            self.id, self.name, (shown, settings.http[1]), (shown, self.peer_address[1]), "alive",
            self.store.capacity_bytes, self.store.used_bytes, self.boot,
        )  # fmt: skip
        return status.cluster(
            me,
            self.membership.all(),
            self.ring(),
            self.versions,
            name=settings.cluster,
            is_secured=settings.is_secured,
        )

    def counters(self) -> dict[str, Any]:
        """What this node has counted, and what it holds."""
        connections = len(self._inbound.protocols) + self._links.open
        prefetch = self._prefetching.told()
        given_bytes = self.resizing.pressure.given_bytes
        return status.counters(
            self.stats, self.store, peer_connections=connections, prefetch=prefetch, given_bytes=given_bytes
        )

    # -- the end ------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Go gracefully: hand over what would be lost, say goodbye, and stop."""
        self._is_leaving = True
        await self.moving.close()
        if self._discovery is not None:
            await self._discovery.stop()
        loop = asyncio.get_running_loop()
        others = {m.id: m.capacity_bytes for m in self.membership.in_ring() if self._links.is_healthy(m.id)}
        if others:
            ring = Ring(others, self._settings.copies)
            handed = await hand_over(self.store, ring, self._peers, loop.time() + HANDOVER_TIMEOUT_S, loop.time)
            _log.info("handed %d features over", handed)
            self._heartbeat.goodbye()
            await self._links.tell(messages.Leave(), GOODBYE_TIMEOUT_S, open_only=True)
        await self.store.demote_all(DEMOTE_TIMEOUT_S)
        await self.stop()

    async def stop(self) -> None:
        """End everything at once, as far as the others can tell without a word."""
        self._is_leaving = True
        await self.moving.close()
        await self._prefetching.close()
        await self.lookup.close()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        tasks = [*self._tasks, *self._late]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._inbound.stop()
        if self._discovery is not None:
            await self._discovery.stop()
        if self._server is not None:
            self._server.close()
        self._heartbeat.close()
        await self._following.close()
        await self._sweep.close()
        await self._links.close()
        self._inbound.close()
        if self._encoder is not None:
            await self._encoder.close()
        self.store.tell_uses()
        await self.store.close()
        await self.lasting.save(at_once=True)
