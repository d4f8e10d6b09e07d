"""Who is in the cluster, and who of them is alive. Pure.

mDNS is for the first meeting only: it does not notice for minutes that a node is dead (docs/architecture.md), and
anybody on the network can announce anything. So what counts here is what this node heard itself: a peer is *alive* once
it has shaken hands and for as long as it answers pings, *suspect* when its connection broke or it has been silent for
2 s, *dead* 3 s after that, and *left* when it said so. The ring has the alive and the suspect: a hiccup must not move
keys; but a suspect is asked last.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from ..protocol.messages import Hello
    from .ring import NodeId

PING_INTERVAL_S = 1.0
SUSPECT_AFTER_S = 2.0  # two pings unanswered
DEAD_AFTER_S = 5.0
# A wake-up later than this is this node's own doing (a stalled event loop, a suspended machine): the silence of others
# during it says nothing of them.
TICK_S = 0.5
STALL_S = 0.5
GONE_REMEMBERED_S = 3600.0
MEMBERS_MAX = 256


class State(StrEnum):
    """What this node holds of a member."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


@dataclass(slots=True)
class Member:
    """One node of the cluster, as this one knows it."""

    id: NodeId
    boot: str
    name: str
    peer: tuple[str, int]
    http: tuple[str, int]
    capacity_bytes: int
    used_bytes: int
    state: State
    heard_at: float
    since: float  # when it came to this state


class Membership:
    """The other members. Learns from handshakes, answered pings, broken connections and goodbyes; `tick` ages them."""

    def __init__(self, me: NodeId, now: float) -> None:
        self.me = me
        self._members: dict[NodeId, Member] = {}
        self._ticked_at = now

    def all(self) -> list[Member]:
        """Every member but this node, the dead and the departed of the last hour too."""
        return [self._members[node] for node in sorted(self._members)]

    def get(self, node: NodeId) -> Member | None:
        """The member with that id."""
        return self._members.get(node)

    def in_ring(self) -> list[Member]:
        """The members that hold keys: alive or suspect."""
        return [member for member in self.all() if member.state in (State.ALIVE, State.SUSPECT)]

    def is_alive(self, node: NodeId) -> bool:
        """Whether `node` answers."""
        member = self._members.get(node)
        return member is not None and member.state is State.ALIVE

    # -- facts --------------------------------------------------------------------------------------------------

    def met(self, now: float, hello: Hello, peer: tuple[str, int], http: tuple[str, int]) -> bool:
        """A handshake with the sender of `hello`; False when it has just said goodbye, or the table is full."""
        used_bytes = 0
        known = self._members.get(hello.id)
        if known is None:
            if len(self._members) >= MEMBERS_MAX and not self._make_room():
                return False
        elif known.boot == hello.boot:
            if known.state is State.LEFT:
                return False
            used_bytes = known.used_bytes
        since = known.since if known is not None and known.state is State.ALIVE and known.boot == hello.boot else now
        self._members[hello.id] = Member(
            hello.id, hello.boot, hello.name, peer, http, hello.capacity_bytes, used_bytes, State.ALIVE, now, since
        )
        return True

    def answered(self, now: float, node: NodeId, used_bytes: int) -> None:
        """`node` has answered a ping."""
        member = self._members.get(node)
        if member is not None and member.state is not State.LEFT:
            member.heard_at = now
            member.used_bytes = used_bytes
            self._turn(now, member, State.ALIVE)

    def lost(self, now: float, node: NodeId, boot: str) -> None:
        """The connection to that boot of `node` broke."""
        member = self._members.get(node)
        if member is not None and member.boot == boot and member.state is State.ALIVE:
            member.heard_at = min(member.heard_at, now - SUSPECT_AFTER_S)
            self._turn(now, member, State.SUSPECT)

    def left(self, now: float, node: NodeId, boot: str) -> None:
        """That boot of `node` says goodbye."""
        member = self._members.get(node)
        if member is not None and member.boot == boot:
            self._turn(now, member, State.LEFT)

    # -- time ---------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` is next needed."""
        return self._ticked_at + TICK_S

    def tick(self, now: float) -> list[Member]:
        """Age the silent; the members whose state changed."""
        late_s = now - self.deadline()
        if late_s > STALL_S:
            for member in self._members.values():
                member.heard_at += late_s
        self._ticked_at = now
        changed = []
        for member in self.all():
            silent_s = now - member.heard_at
            if member.state is State.ALIVE and silent_s >= SUSPECT_AFTER_S:
                self._turn(now, member, State.SUSPECT)
                changed.append(member)
            elif member.state is State.SUSPECT and silent_s >= DEAD_AFTER_S:
                self._turn(now, member, State.DEAD)
                changed.append(member)
            elif member.state in (State.DEAD, State.LEFT) and now - member.since >= GONE_REMEMBERED_S:
                del self._members[member.id]
        return changed

    # -- agreement ----------------------------------------------------------------------------------------------

    def digest(self) -> bytes:
        """8 bytes that are equal on two nodes exactly when both hear the same members (this node counts itself in)."""
        alive = sorted([member.id for member in self._members.values() if member.state is State.ALIVE] + [self.me])
        return xxhash.xxh3_64_digest("\0".join(alive).encode())

    def _turn(self, now: float, member: Member, state: State) -> None:
        if member.state is not state:
            member.state = state
            member.since = now

    def _make_room(self) -> bool:
        """Forget the longest gone member, if any is gone."""
        gone = [member for member in self.all() if member.state in (State.DEAD, State.LEFT)]
        oldest = min(gone, key=lambda member: member.since, default=None)
        if oldest is None:
            return False
        del self._members[oldest.id]
        return True
