"""What one node tells another of what it knows: members, encoders, current versions and removals. Pure.

News travel as rumors beside probes (`rumors.py`). Every probe and its answer also carry a digest of all that is known:
where two differ for longer than rumors take, the two exchange everything. That is what memberlist's periodic full
exchange is for, without its cost where both know the same already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import xxhash

from ..protocol import datagrams, messages
from ..protocol.datagrams import Alive, Exists, Gone, NowCurrent, Removed, Rumor, Said, Suspected
from ..protocol.errors import InvalidValue, RemoteProtocolError
from ..protocol.frames import HEAD_BYTES_MAX
from ..protocol.keys import DIGEST_BYTES, PACKED_KEY_BYTES, EncoderIdentity
from ..protocol.messages import RemovedPart, RemovedSums
from .membership import MEMBERS_MAX
from .sightings import Sighting
from .versions import Current

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..protocol.frames import Buffer
    from .membership import Member, Membership
    from .removals import Removals
    from .ring import NodeId
    from .rumors import Rumors
    from .versions import Versions

_LIST_HEADER_BYTES = 5  # MessagePack's for the longest list
# Who is alive is told each node a dozen times. So many of these rumors are known again by their hash, undecoded.
HEARD_MAX = 512
# Rumors reach everybody in 2 s at 200 nodes: only what differs for longer than that has been missed.
SETTLED_S = 3.0


@dataclass(slots=True)
class Heard:
    """What came of what was heard."""

    changed: list[Member] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)
    """Encoders whose older features are gone from now on."""
    removed: list[bytes] = field(default_factory=list)
    """Keys and images of which older features are gone from now on."""
    to_call: list[Sighting] = field(default_factory=list)
    """Where somebody may be who has this node's own id."""
    is_all: bool = False
    """Whether this was all that a member knows."""


class Gossip:
    """Sums up and takes in what nodes tell each other, for one node."""

    def __init__(self, membership: Membership, versions: Versions, removals: Removals, rumors: Rumors) -> None:
        self._membership = membership
        self._versions = versions
        self._removals = removals
        self._rumors = rumors
        self._told: set[bytes] = set()
        self._told_until = 0
        self._summed: tuple[int, int, int] | None = None
        self._sum = b""
        self._digest = b""
        self._changed_at = 0.0
        self._exchanged: dict[NodeId, tuple[bytes, bytes]] = {}
        self._heard: dict[int, None] = {}
        self._forgotten = 0

    # -- what is told -------------------------------------------------------------------------------------------

    def digest(self) -> bytes:
        """16 bytes that differ when the knowledge does."""
        seen = self._membership.sum, self._versions.changes, self._removals.sum
        if seen != self._summed:
            self._summed, self._sum = seen, self._membership.digest() + self._sum_of_versions(seen[2])
        return self._sum

    def _sum_of_versions(self, removed: int) -> bytes:
        known = [encoder.digest for encoder in self._tell_encoders()]
        current = [f"{name}\0{now.version}\0{now.counter}".encode() for name, now in self._versions.current().items()]
        return xxhash.xxh3_64_digest(b"\0\0".join([*known, b"", *current, b"", removed.to_bytes(8, "little")]))

    def beside(self, said: Said, to: NodeId | None, news: datagrams.ListNews | None = None) -> list[bytes]:
        """The rumors to send with `said` and `news`; first what this node believes against the receiver itself."""
        if self._removals.has_untold:
            self._tell_removed()
        first = self._membership.doubts(to) if to is not None else None
        if first is None and not len(self._rumors):
            return []
        room_bytes = datagrams.rumors_room(said, news)
        if first is None:
            return self._rumors.take(room_bytes, self._membership.size)
        return [first, *self._rumors.take(room_bytes - len(first), self._membership.size)]

    def state(self, beyond: messages.State | None = None) -> messages.State:
        """All that this node knows; of the members as many as a message holds, and the next ones the next time.

        `beyond`: what the receiver has just said; of the others it is told those of whom it said something else.
        """
        encoders = [messages.Encoder(known.name, known.version, known.fingerprint) for known in self._versions.known()]
        members = self._membership.described()
        if beyond is not None:
            said = {_claim(member) for member in beyond.members}
            me = self._membership.me  # told in any case: a State with members says that this is all
            members = [member for member in members if member.id == me or _claim(member) not in said]
        state = messages.State(members, encoders, self.current())
        if len(messages.encode(state)) <= HEAD_BYTES_MAX:
            return state
        state = messages.State([], encoders, self.current())
        room_bytes = HEAD_BYTES_MAX - len(messages.encode(state)) - _LIST_HEADER_BYTES
        first = self._told_until if self._told_until < len(members) else 0
        for member in members[first:] + members[:first]:
            room_bytes -= len(messages.encode(member))
            if room_bytes < 0:
                self._told_until = (first + len(state.members)) % len(members)
                break
            state.members.append(member)
        return state

    def current(self) -> list[messages.CurrentVersion]:
        """The current versions alone: what is said at once after an invalidation."""
        return [
            messages.CurrentVersion(name, now.version, now.counter) for name, now in self._versions.current().items()
        ]

    def _tell_encoders(self) -> list[EncoderIdentity]:
        """Those known, each of which is told of once."""
        known = self._versions.known()
        for encoder in known:
            if encoder.digest not in self._told:
                said = Exists(encoder.name, encoder.version, encoder.fingerprint)
                self._rumors.add(f"encoder {encoder.digest.hex()}", datagrams.encode_rumor(said))
        self._told = {encoder.digest for encoder in known}
        return known

    def tell_current(self, name: str) -> None:
        """Tell everybody which version of `name` is current."""
        now = self._versions.current()[name]
        self._rumors.add(f"current {name}", datagrams.encode_rumor(NowCurrent(name, now.version, now.counter)))

    def _tell_removed(self) -> None:
        for removal, age_s in self._removals.untold():
            said = Removed(removal.name, removal.stamp, age_s)
            self._rumors.add(f"removed {removal.name.hex()}", datagrams.encode_rumor(said))

    # -- what is heard ------------------------------------------------------------------------------------------

    def hear_encoded(self, now: float, encoded: Sequence[Buffer]) -> Heard | None:
        """Take in what came beside a message; None if that was all heard before.

        RemoteProtocolError for what no correct peer says.
        """
        if self._forgotten != self._membership.forgotten:  # of whom nothing is known, all is news
            self._forgotten = self._membership.forgotten
            self._heard.clear()
        hashes = [xxhash.xxh3_64_intdigest(rumor) for rumor in encoded]
        unheard = [(number, rumor) for number, rumor in zip(hashes, encoded, strict=True) if number not in self._heard]
        if not unheard:
            return None
        rumors = [datagrams.decode_rumor(rumor) for _, rumor in unheard]
        heard = self.hear(now, rumors)
        for (number, _), rumor in zip(unheard, rumors, strict=True):
            # A claim that somebody is alive changes nothing, once it was heard of somebody who is known.
            if isinstance(rumor, Alive) and self._membership.get(rumor.id) is not None:
                self._heard[number] = None
        while len(self._heard) > HEARD_MAX:
            del self._heard[next(iter(self._heard))]
        return heard

    def hear(self, now: float, rumors: Sequence[Rumor]) -> Heard:
        """Take in rumors; RemoteProtocolError for what no correct peer says."""
        heard = Heard()
        for rumor in rumors:
            match rumor:
                case Alive():
                    heard.changed += self._membership.heard_alive(now, rumor)
                    if rumor.id == self._membership.me and rumor.boot != self._membership.boot and rumor.peer_host:
                        address = (rumor.peer_host, rumor.peer_port)
                        heard.to_call.append(Sighting(rumor.id, rumor.boot, rumor.name, address))
                case Suspected():
                    heard.changed += self._membership.heard_suspected(now, rumor)
                case Gone():
                    heard.changed += self._membership.heard_gone(now, rumor)
                case Exists():
                    self._learn(rumor.name, rumor.version, rumor.fingerprint)
                case NowCurrent():
                    self._hear_current(rumor.encoder, Current(rumor.counter, rumor.version), heard)
                case Removed():
                    self._hear_removed(now, rumor.name, rumor.stamp, rumor.age_s, heard)
        return heard

    def merge(self, now: float, state: messages.State) -> Heard:
        """Take in all that a peer knows; RemoteProtocolError for what no correct peer says."""
        too_many = (
            len(state.members) > messages.MEMBERS_MAX
            or len(state.encoders) > messages.ENCODERS_MAX
            or len(state.current) > messages.ENCODERS_MAX
        )
        if too_many:
            raise RemoteProtocolError(
                f"state of {len(state.members)} members, {len(state.encoders)} encoders and {len(state.current)} "
                f"current versions, at most {messages.MEMBERS_MAX}, {messages.ENCODERS_MAX}, {messages.ENCODERS_MAX}"
            )
        heard = Heard(is_all=bool(state.members))
        for encoder in state.encoders:
            self._learn(encoder.name, encoder.version, encoder.fingerprint)
        for said in state.current:
            self._hear_current(said.encoder, Current(said.counter, said.version), heard)
        heard.changed += self._membership.heard_all(now, state.members)
        return heard

    def _learn(self, name: str, version: str, fingerprint: bytes) -> None:
        try:
            self._versions.learn(EncoderIdentity(name, version, fingerprint))
        except InvalidValue as error:
            raise RemoteProtocolError(f"state: {error}") from None

    def _hear_current(self, name: str, current: Current, heard: Heard) -> None:
        try:
            is_news = self._versions.hear_current(name, current)
        except InvalidValue as error:
            raise RemoteProtocolError(f"state: {error}") from None
        if is_news:
            heard.outdated.append(name)
            self.tell_current(name)

    def _hear_removed(self, now: float, name: bytes, stamp: int, age_s: float, heard: Heard) -> None:
        if len(name) not in (PACKED_KEY_BYTES, DIGEST_BYTES):
            raise RemoteProtocolError(f"removal of {len(name)} bytes: {PACKED_KEY_BYTES} or {DIGEST_BYTES} expected")
        try:
            is_news = self._removals.hear(name, stamp, age_s, now)
        except InvalidValue as error:
            raise RemoteProtocolError(f"state: {error}") from None
        if is_news:
            heard.removed.append(name)

    # -- removals, part by part: they may be many -----------------------------------------------------------------

    def removed_sums(self) -> RemovedSums:
        """What to compare first."""
        return RemovedSums(self._removals.sums())

    def removed_parts(self, theirs: RemovedSums) -> list[int]:
        """The parts to be exchanged with who says `theirs`."""
        return self._removals.differing(theirs.sums)

    def removed_part(self, now: float, number: int) -> RemovedPart:
        """All of that part that this node knows, or the latest."""
        removals = self._removals.part(number, messages.KEYS_MAX)
        return RemovedPart(
            number,
            [removal.name for removal in removals],
            [removal.stamp for removal in removals],
            [max(0, round(now - removal.since)) for removal in removals],
        )

    def merge_removed(self, now: float, part: RemovedPart) -> Heard:
        """Take in what a peer says was removed; RemoteProtocolError for what no correct peer says."""
        if not len(part.names) == len(part.stamps) == len(part.ages) <= messages.KEYS_MAX:
            raise RemoteProtocolError(f"{len(part.names)} removals at once, at most {messages.KEYS_MAX}, each with all")
        heard = Heard()
        for name, stamp, age_s in zip(part.names, part.stamps, part.ages, strict=True):
            self._hear_removed(now, name, stamp, age_s, heard)
        return heard

    # -- when to exchange everything ----------------------------------------------------------------------------

    def is_worth_an_exchange(self, now: float, node: NodeId, theirs: bytes) -> bool:
        """Whether what `node` knows differs for good: neither rumors nor the last exchange with it have settled it."""
        mine = self.digest()
        if mine != self._digest:
            self._digest, self._changed_at = mine, now
        return now - self._changed_at >= SETTLED_S and self._exchanged.get(node) != (mine, theirs)

    def exchanged(self, node: NodeId, theirs: bytes) -> None:
        """Everything was exchanged with `node`: what differs still, will."""
        self._exchanged.pop(node, None)
        self._exchanged[node] = (self.digest(), theirs)
        while len(self._exchanged) > MEMBERS_MAX:
            del self._exchanged[next(iter(self._exchanged))]


def _claim(member: messages.Member) -> tuple[str, str, int, int]:
    """What is held of it: where it is, follows from its boot."""
    return member.id, member.boot, member.incarnation, member.state
