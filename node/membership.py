"""Who is in the cluster, and who of them is alive, as far as this node has heard. Pure.

mDNS is for the first meeting only: it does not notice for minutes that a node is dead (docs/architecture.md), and
anybody on the network can announce anything. Who is alive the members find out by probing each other (`probing.py`),
and tell each other: this is the table of what was heard, after SWIM (Das, Gupta, Motivala, DSN 2002).

**One order for all claims.** A claim about a member carries the *incarnation* that it is about, a number that only the
member itself raises. Of two claims the one with the greater (incarnation, rank) counts, and the ranks are alive <
suspect < dead < left: the precedence of SWIM's section 4.2, in one comparison. So it does not matter in which order
nodes hear things. A member that hears it is suspected, or dead, raises its incarnation and says that it is alive. We
differ in one point, as memberlist does: dead is not for good. A node that was cut off comes back the same way.

**Suspicion** (section 4.2) gives the accused time to do that. How long, is Lifeguard's (Dadgar, Phillips, Currey,
"Lifeguard: Local Health Awareness for More Accurate Failure Detection", DSN-W 2018, section IV.B): it starts long, and
gets shorter with everybody else who finds the same, since one accuser may itself be the one that is ill.

The ring has the alive and the suspect: a hiccup must not move keys; but a suspect is asked last.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import xxhash

from ..protocol import datagrams, messages
from ..protocol.datagrams import Alive, Gone, Suspected
from .interfaces import is_loopback

if TYPE_CHECKING:
    from ..protocol.messages import Hello
    from .ring import NodeId
    from .rumors import Rumors

# A stall of 5 s is survived: the first probe that it spoils fails 1 s after it began, and after 4.5 s more it is over.
SUSPICION_MIN_S = 4.5
SUSPICION_MAX_S = 9.0
CONFIRMATIONS_MAX = 3  # Lifeguard's K: so many others who suspect the same make the time the shortest
GONE_REMEMBERED_S = 3600.0
# 0.7 KB each here, and as much again on every other; a full exchange takes three questions then. What limits larger
# clusters is the round of probes: a change of directories is known after as many seconds as there are members.
MEMBERS_MAX = 1024


class State(StrEnum):
    """What this node holds of a member."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


_STATES = tuple(State)  # the order is the rank
_RANK = {state: rank for rank, state in enumerate(_STATES)}
_IN_RING = (State.ALIVE, State.SUSPECT)


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
    since: float  # when it came to this state
    incarnation: int = 0

    @property
    def is_in_ring(self) -> bool:
        """Whether it holds keys."""
        return self.state in _IN_RING


@dataclass(slots=True)
class _Suspicion:
    """When it began, and who has it; the first is the accuser, and only the others confirm it."""

    began_at: float
    by: list[NodeId] = field(default_factory=list)


class Membership:
    """The other members. What is heard of them goes in; `tick` ends suspicions. Methods return the members changed."""

    def __init__(self, me: NodeId, boot: str, rumors: Rumors, *, tells_loopback: bool = False) -> None:
        """`tells_loopback`: whether members met on 127.0.0.1 can be met there by whoever hears of them."""
        self.me = me
        self.boot = boot
        self.incarnation = 0
        self.refutations = 0
        """How often this node had to say that it is alive; somebody else's fault, or a sign that it is slow."""
        self.version = 0
        """Counts changes of who is in the ring, and of their addresses and boots."""
        self.in_ring_ids: list[NodeId] = []
        """The members that hold keys, in no useful order: to draw from."""
        self.size = 1
        """How many there are in the ring, with this node."""
        self.gone_ids: list[NodeId] = []
        """The members that are dead; not those that left."""
        self.forgotten = 0
        """Counts members that were."""
        self._rumors = rumors
        self._tells_loopback = tells_loopback
        self._self: Alive | None = None
        self._is_leaving = False
        self._members: dict[NodeId, Member] = {}
        self._suspicions: dict[NodeId, _Suspicion] = {}
        self._went: deque[tuple[float, NodeId]] = deque()
        self.sum = _hash(me, boot)
        """Equal on two nodes exactly when they have the same boots in the ring, each with itself; 64 bits."""

    # -- who there is -------------------------------------------------------------------------------------------

    def all(self) -> list[Member]:
        """Every member but this node, the dead and the departed of the last hour too."""
        return [self._members[node] for node in sorted(self._members)]

    def get(self, node: NodeId) -> Member | None:
        """The member with that id."""
        return self._members.get(node)

    def in_ring(self) -> list[Member]:
        """The members that hold keys: alive or suspect."""
        return [self._members[node] for node in sorted(self.in_ring_ids)]

    def is_alive(self, node: NodeId) -> bool:
        """Whether nobody doubts that `node` answers."""
        member = self._members.get(node)
        return member is not None and member.state is State.ALIVE

    def digest(self) -> bytes:
        """`sum` as it is told."""
        return self.sum.to_bytes(8, "little")

    # -- this node ----------------------------------------------------------------------------------------------

    def introduce(self, me: Hello) -> None:
        """What this node tells of itself from now on."""
        self._self = Alive(
            self.me, self.incarnation, self.boot, me.name, me.peer_host, me.peer_port, me.http_host, me.http_port,
            me.capacity_bytes,
        )  # fmt: skip
        self._rumors.add(self.me, datagrams.encode_rumor(self._self))

    def described(self) -> list[messages.Member]:
        """This node, and everybody it has heard of, as the others are told of them."""
        me = self._self
        told = []
        if me is not None:
            told.append(
                messages.Member(
                    me.id, me.boot, me.name, me.peer_host, me.peer_port, me.http_host, me.http_port,
                    me.capacity_bytes, self.incarnation, _RANK[State.LEFT if self._is_leaving else State.ALIVE],
                )
            )  # fmt: skip
        told += [
            messages.Member(
                m.id, m.boot, m.name, *m.peer, *m.http, m.capacity_bytes, m.incarnation, _RANK[m.state]
            )
            for m in self.all()
            if self._may_tell_of(m)
        ]  # fmt: skip
        return told

    def leave(self) -> bytes:
        """Say goodbye from now on; no rumor is denied any more. Returns what to tell everybody."""
        self._is_leaving = True
        goodbye = datagrams.encode_rumor(Gone(self.me, self.incarnation, True))
        self._rumors.add(self.me, goodbye)
        return goodbye

    def _refute(self, incarnation: int) -> None:
        """Somebody says otherwise of this node, at `incarnation`."""
        if self._is_leaving or self._self is None or incarnation < self.incarnation:
            return
        self.refutations += 1
        self.incarnation = min(incarnation + 1, messages.INCARNATION_MAX)
        me = self._self
        self._self = Alive(
            me.id, self.incarnation, me.boot, me.name, me.peer_host, me.peer_port, me.http_host, me.http_port,
            me.capacity_bytes,
        )  # fmt: skip
        self._rumors.add(self.me, datagrams.encode_rumor(self._self))

    # -- what is heard ------------------------------------------------------------------------------------------

    def met(self, now: float, hello: Hello, peer: tuple[str, int], http: tuple[str, int]) -> list[Member]:
        """A handshake with the sender of `hello`: that is a claim that it is alive, and where, at first hand."""
        known = self._members.get(hello.id)
        incarnation = known.incarnation if known is not None and known.boot == hello.boot else 0
        return self.heard_alive(
            now, Alive(hello.id, incarnation, hello.boot, hello.name, *peer, *http, hello.capacity_bytes)
        )

    def heard_alive(self, now: float, said: Alive) -> list[Member]:
        """`said.id` is alive at that incarnation, or there is a later boot of it."""
        if said.id == self.me:
            if said.boot != self.boot:
                self._refute(said.incarnation)
            return []
        known = self._members.get(said.id)
        if known is None:
            if not said.peer_host or not said.peer_port:  # it cannot be reached, as far as this node is told
                return []
            if len(self._members) >= MEMBERS_MAX and not self._make_room():
                return []
            # Ids come with each datagram anew, and are kept in many places: interned, they are one string.
            node = sys.intern(said.id)
            known = Member(
                node, said.boot, said.name, (said.peer_host, said.peer_port), (said.http_host, said.http_port),
                said.capacity_bytes, 0, State.LEFT, now, -1,
            )  # fmt: skip
            self._members[node] = known
        elif (said.incarnation, 0, said.boot) <= (known.incarnation, _RANK[known.state], known.boot):
            return []
        self._suspicions.pop(said.id, None)
        self._take_out(known)
        if known.boot != said.boot:
            known.used_bytes = 0
        known.boot, known.name = sys.intern(said.boot), sys.intern(said.name)
        known.capacity_bytes = said.capacity_bytes
        known.incarnation = said.incarnation
        if said.peer_host and said.peer_port:
            host = sys.intern(said.peer_host)
            known.peer, known.http = (host, said.peer_port), (sys.intern(said.http_host), said.http_port)
        self._turn(now, known, State.ALIVE)
        self._put_in(known)
        self._tell_alive(known)
        return [known]

    def heard_suspected(self, now: float, said: Suspected) -> list[Member]:
        """`said.by` gets no answer from `said.id`. Said by this node's own prober too."""
        if said.id == self.me:
            self._refute(said.incarnation)
            return []
        member = self._members.get(said.id)
        if member is None or (said.incarnation, 1) < (member.incarnation, _RANK[member.state]):
            return []
        if (said.incarnation, member.state) == (member.incarnation, State.SUSPECT):
            suspicion = self._suspicions[said.id]
            # Independent confirmations are news, so many of them; the same accuser again is not.
            if said.by not in suspicion.by and len(suspicion.by) <= CONFIRMATIONS_MAX:
                suspicion.by.append(said.by)
                self._rumors.add(f"{said.id} {said.by}", datagrams.encode_rumor(said))
            return []
        member.incarnation = said.incarnation
        self._suspicions[said.id] = _Suspicion(now, [said.by])
        self._take_out(member)  # and in again: that it is suspected, is news of one that was dead
        self._turn(now, member, State.SUSPECT)
        self._put_in(member)
        self._rumors.add(said.id, datagrams.encode_rumor(said))
        return [member]

    def heard_gone(self, now: float, said: Gone) -> list[Member]:
        """`said.id` is dead, or has left."""
        if said.id == self.me:
            self._refute(said.incarnation)
            return []
        member = self._members.get(said.id)
        state = State.LEFT if said.has_left else State.DEAD
        if member is None or (said.incarnation, _RANK[state]) <= (member.incarnation, _RANK[member.state]):
            return []
        member.incarnation = said.incarnation
        self._end(now, member, state)
        return [member]

    def left(self, now: float, node: NodeId, boot: str) -> list[Member]:
        """That boot of `node` has said goodbye itself."""
        member = self._members.get(node)
        if member is None or member.boot != boot:
            return []
        return self.heard_gone(now, Gone(node, member.incarnation, True))

    def heard_all(self, now: float, told: Sequence[messages.Member]) -> list[Member]:
        """Everything that a peer holds.

        Whom it holds for dead is suspected here, no more: on the other side of a split everybody is dead, and not one
        of them may be lost by its end.
        """
        changed: list[Member] = []
        for it in told:
            state, known = _STATES[it.state], self._members.get(it.id)
            as_told = state, it.boot, it.incarnation
            if state is State.ALIVE and known and (known.state, known.boot, known.incarnation) == as_told:
                continue  # as most of it, where two meet who know the others
            if state in _IN_RING:
                changed += self.heard_alive(
                    now,
                    Alive(
                        it.id, it.incarnation, it.boot, it.name, it.peer_host, it.peer_port, it.http_host,
                        it.http_port, it.capacity_bytes,
                    ),
                )  # fmt: skip
            if state is State.LEFT:
                changed += self.heard_gone(now, Gone(it.id, it.incarnation, True))
            elif state is not State.ALIVE:
                changed += self.heard_suspected(now, Suspected(it.id, it.incarnation, self.me))
        return changed

    def doubts(self, node: NodeId) -> bytes | None:
        """The rumor that this node believes against `node`, to be told to it first of all; None if there is none.

        Lifeguard's "buddy system" (section IV.C), for the dead as for the suspect.
        """
        member = self._members.get(node)
        if member is None or member.state is State.ALIVE:
            return None
        if member.state is State.SUSPECT:
            return datagrams.encode_rumor(Suspected(node, member.incarnation, self._suspicions[node].by[0]))
        return datagrams.encode_rumor(Gone(node, member.incarnation, member.state is State.LEFT))

    # -- time ---------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` is next needed."""
        if self._suspicions:
            return min(self._ends_at(suspicion) for suspicion in self._suspicions.values())
        return self._went[0][0] + GONE_REMEMBERED_S if self._went else math.inf

    def tick(self, now: float) -> list[Member]:
        """Those whose time to refute is over are dead; those gone for an hour are forgotten."""
        changed: list[Member] = []
        over = [node for node, it in self._suspicions.items() if now >= self._ends_at(it)] if self._suspicions else ()
        for node in over:
            member = self._members[node]
            self._end(now, member, State.DEAD)
            changed.append(member)
        while self._went and now >= self._went[0][0] + GONE_REMEMBERED_S:  # as `deadline` says, to the last bit
            went_at, node = self._went.popleft()
            gone = self._members.get(node)
            if gone is not None and not gone.is_in_ring and gone.since == went_at:
                self._forget(gone)
        return changed

    def stalled(self, late_s: float) -> None:
        """This node itself was held up for so long, and could not have heard a refutation."""
        for suspicion in self._suspicions.values():
            suspicion.began_at += late_s

    def _ends_at(self, suspicion: _Suspicion) -> float:
        """Lifeguard, section IV.B: from the longest to the shortest time as the logarithm of the confirmations."""
        others = min(CONFIRMATIONS_MAX, self.size - 2)  # who could confirm it
        if others < 1:
            return suspicion.began_at + SUSPICION_MIN_S
        share = math.log(len(suspicion.by)) / math.log(others + 1)
        return suspicion.began_at + max(SUSPICION_MIN_S, SUSPICION_MAX_S - (SUSPICION_MAX_S - SUSPICION_MIN_S) * share)

    # -- the table ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself."""
        in_ring = [m for m in self._members.values() if m.is_in_ring]
        assert sorted(self.in_ring_ids) == sorted(m.id for m in in_ring)
        assert self.size == len(in_ring) + 1
        assert sorted(self.gone_ids) == sorted(m.id for m in self._members.values() if m.state is State.DEAD)
        assert set(self._suspicions) == {m.id for m in in_ring if m.state is State.SUSPECT}
        assert len(self._members) <= MEMBERS_MAX
        expected = _hash(self.me, self.boot)
        for member in in_ring:
            expected ^= _hash(member.id, member.boot)
        assert self.sum == expected

    def _end(self, now: float, member: Member, state: State) -> None:
        self._suspicions.pop(member.id, None)
        self._take_out(member)
        self._turn(now, member, state)
        if state is State.DEAD:
            self.gone_ids.append(member.id)
        self._went.append((now, member.id))
        self._rumors.add(member.id, datagrams.encode_rumor(Gone(member.id, member.incarnation, state is State.LEFT)))

    def _put_in(self, member: Member) -> None:
        self.in_ring_ids.append(member.id)
        self.size += 1
        self.sum ^= _hash(member.id, member.boot)
        self.version += 1

    def _take_out(self, member: Member) -> None:
        if member.is_in_ring:
            self.in_ring_ids.remove(member.id)
            self.size -= 1
            self.sum ^= _hash(member.id, member.boot)
            self.version += 1
        elif member.state is State.DEAD:
            self.gone_ids.remove(member.id)

    def _turn(self, now: float, member: Member, state: State) -> None:
        if member.state is not state:
            member.state = state
            member.since = now

    def _tell_alive(self, member: Member) -> None:
        if not self._may_tell_of(member):
            return
        said = Alive(
            member.id, member.incarnation, member.boot, member.name, *member.peer, *member.http, member.capacity_bytes
        )
        self._rumors.add(member.id, datagrams.encode_rumor(said))

    def _may_tell_of(self, member: Member) -> bool:
        return self._tells_loopback or not is_loopback(member.peer[0])

    def _forget(self, member: Member) -> None:
        self._take_out(member)
        self._rumors.drop(member.id)
        del self._members[member.id]
        self.forgotten += 1

    def _make_room(self) -> bool:
        """Forget the longest gone member, if any is gone."""
        gone = [member for member in self.all() if not member.is_in_ring]
        oldest = min(gone, key=lambda member: member.since, default=None)
        if oldest is None:
            return False
        self._forget(oldest)
        return True


def _hash(node: NodeId, boot: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{node}\0{boot}".encode())
