"""Finding out who has died: one member is probed each second, whatever the size of the cluster. Pure.

SWIM's failure detector (Das, Gupta, Motivala, DSN 2002). Each period one member is asked whether it is there, in a
random order in which everybody has its turn (sections 3.1 and 4.3). If it does not answer within `DIRECT_S`, three
others are asked to ask it (section 3.1), so that one bad link is nobody's death, and it is called over TCP too, in case
a firewall swallows datagrams. Only if none of that is answered within the period, it is suspected (`membership.py`).

Lifeguard's local health (Dadgar, Phillips, Currey, DSN-W 2018, section IV.A): what goes wrong around a node that is
itself short of time, says little of the others. Each probe that fails while the helpers keep silent too, each rumor
that this node has to refute, and each of its own stalls count against it, and each answered probe for it; the periods
get longer by that count. A helper that hears nothing says so, to tell a dead target from a deaf asker.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ..protocol.datagrams import Here, NotHere, Probe, ProbeFor, Said, Suspected

if TYPE_CHECKING:
    from .membership import Member, Membership
    from .ring import NodeId

Address = tuple[str, int]

PERIOD_S = 1.0
DIRECT_S = 0.4  # a LAN answers in a millisecond, a busy Wi-Fi or a small device in some hundreds
RELAY_S = 0.4  # how long a helper waits before it says that it has heard nothing
HELPERS = 3
HEALTH_MAX = 8
# Dead members are called again now and then, one at a time: that is how the halves of a split find each other.
REVIVE_S = 3.0
REVIVE_TCP_EVERY = 10  # and so often over TCP, where datagrams do not pass
# A wake-up later than this is this node's own doing (a stalled event loop, a suspended machine): the silence of others
# during it says nothing of them.
STALL_S = 0.5
RELAYS_MAX = 64
HURRIED_MAX = 16


class Send(msgspec.Struct, frozen=True):
    """Send this in a datagram."""

    address: Address
    said: Said
    to: NodeId | None = None
    """Who is there, if that is known."""


class Call(msgspec.Struct, frozen=True):
    """Ask `node` over TCP whether it is there, and say what came of it: `answered` or `refused`."""

    node: NodeId
    number: int


class Compare(msgspec.Struct, frozen=True):
    """Whoever is at `address` knows something else than this node: exchange all that both know."""

    address: Address
    node: NodeId
    their_digest: bytes
    """Empty: of more use than a digest could say; it was unknown, or held for dead."""


class Timed(msgspec.Struct, frozen=True):
    """`node` has answered a probe itself, after `round_trip_s`."""

    node: NodeId
    round_trip_s: float


Action = Send | Call | Compare | Timed


class _Probing(msgspec.Struct):
    """A question that has not been answered yet."""

    node: NodeId
    began_at: float
    direct_ends_at: float
    ends_at: float
    is_revival: bool = False
    helpers: int = 0
    heard_helpers: int = 0
    has_called: bool = False


@dataclass(frozen=True, slots=True)
class _Relay:
    """Somebody for whom another is asked."""

    address: Address
    number: int
    ends_at: float


class Prober:
    """Asks, answers, asks for others, and says who does not answer. Methods return what is to be done."""

    def __init__(self, membership: Membership, now: float, rng: random.Random) -> None:
        self.health = 0
        """Lifeguard's local health multiplier: 0 is well, 8 is as ill as can be."""
        self._membership = membership
        self._rng = rng
        self._number = rng.getrandbits(32)  # nobody who has not seen one can answer for a member
        self._probing: dict[int, _Probing] = {}
        self._relays: dict[int, _Relay] = {}
        self._turns: list[NodeId] = []
        self._had_turns: set[NodeId] = set()
        self._version = -1
        self._next_at = now + rng.uniform(0.0, PERIOD_S)
        self._revive_at = now + rng.uniform(0.0, REVIVE_S)
        self._revivals = 0
        self._refutations = 0

    # -- time ---------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` is next needed."""
        first = self._expected_at()
        return self._revive_at if self._revive_at < first and self._membership.gone_ids else first

    def _expected_at(self) -> float:
        """The same, but for dead members: one may have been called long ago, or just have become the first."""
        first = min(self._next_at, self._membership.deadline())
        for probing in self._probing.values():  # a few; this is asked after every answer
            ends_at = probing.ends_at if probing.helpers else probing.direct_ends_at
            if ends_at < first:
                first = ends_at
        for relay in self._relays.values():
            first = min(first, relay.ends_at)
        return first

    def tick(self, now: float, digest: bytes) -> tuple[list[Action], list[Member]]:
        """What to do now, and the members whose state changed."""
        if (late_s := now - self._expected_at()) > STALL_S:
            self._stalled(late_s)
        actions: list[Action] = []
        changed: list[Member] = []
        if self._relays:
            actions += self._tell_askers(now)
        if self._probing:
            self._look_at_silence(now, actions, changed)
        self._notice_refutations()
        if now >= self._next_at:
            self._next_at = now + PERIOD_S * (1 + self.health)
            if (member := self._next()) is not None:
                actions.append(self._probe(now, member, digest))
        if now >= self._revive_at:
            self._revive_at = now + REVIVE_S
            actions += self._revive(now, digest)
        changed += self._membership.tick(now)
        return actions, changed

    def _tell_askers(self, now: float) -> list[Action]:
        """Those for whom others were asked, in vain so far."""
        over = [number for number, relay in self._relays.items() if now >= relay.ends_at]
        relays = [self._relays.pop(number) for number in over]
        return [Send(relay.address, NotHere(relay.number)) for relay in relays]

    def _look_at_silence(self, now: float, actions: list[Action], changed: list[Member]) -> None:
        for number, probing in list(self._probing.items()):
            if now >= probing.ends_at:
                del self._probing[number]
                changed += self._failed(now, probing)
            elif now >= probing.direct_ends_at and not probing.helpers and not probing.is_revival:
                actions += self._seek_help(number, probing)

    def _stalled(self, late_s: float) -> None:
        self._worse(1)
        self._membership.stalled(late_s)
        for probing in self._probing.values():
            probing.direct_ends_at += late_s
            probing.ends_at += late_s

    def hurry(self, now: float, node: NodeId, digest: bytes) -> list[Action]:
        """Something is wrong with `node` (its connection broke): ask it now."""
        member = self._membership.get(node)
        is_asked = any(probing.node == node and not probing.is_revival for probing in self._probing.values())
        if member is None or not member.is_in_ring or is_asked or len(self._probing) >= HURRIED_MAX:
            return []
        send = self._probe(now, member, digest)
        number = self._number
        self._probing[number].has_called = True
        return [send, Call(node, number)]

    def ask(self, now: float, node: NodeId, digest: bytes) -> list[Action]:
        """`node` has something to tell: probe it out of its turn."""
        member = self._membership.get(node)
        is_asked = any(probing.node == node for probing in self._probing.values())
        if member is None or not member.is_in_ring or is_asked or len(self._probing) >= HURRIED_MAX:
            return []
        return [self._probe(now, member, digest)]

    def asked(self, number: int) -> NodeId | None:
        """Who has been asked with that number, and has not answered yet."""
        probing = self._probing.get(number)
        return probing.node if probing is not None else None

    # -- what comes ---------------------------------------------------------------------------------------------

    def received(self, now: float, address: Address, said: Said, digest: bytes, used_bytes: int) -> list[Action]:
        """`said` came from `address`."""
        match said:
            case Probe():
                return self._asked(address, said, digest, used_bytes)
            case Here():
                return self._heard(now, said.number, digest, said)
            case ProbeFor():
                return self._asked_for(now, address, said, digest)
            case NotHere():
                if (probing := self._probing.get(said.number)) is not None:
                    probing.heard_helpers += 1
        return []

    def _asked(self, address: Address, said: Probe, digest: bytes, used_bytes: int) -> list[Action]:
        if said.target != self._membership.me:  # who was at this address before
            return []
        actions: list[Action] = [Send(address, Here(said.number, digest, used_bytes), said.sender)]
        member = self._membership.get(said.sender)
        if member is None or not member.is_in_ring:
            actions.append(Compare(address, said.sender, b""))
        elif said.digest and said.digest != digest:
            actions.append(Compare(member.peer, said.sender, said.digest))
        return actions

    def _asked_for(self, now: float, address: Address, said: ProbeFor, digest: bytes) -> list[Action]:
        if len(self._relays) >= RELAYS_MAX or not said.peer_host or not said.peer_port:
            return []
        self._relays[self._take_number()] = _Relay(address, said.number, now + RELAY_S)
        probe = Probe(self._number, said.target, self._membership.me, digest)
        return [Send((said.peer_host, said.peer_port), probe, said.target)]

    def _heard(self, now: float, number: int, digest: bytes, said: Here | None = None) -> list[Action]:
        """The question of that `number` is answered; over TCP, without a word more."""
        if (relay := self._relays.pop(number, None)) is not None:
            return [Send(relay.address, Here(relay.number, b"", 0))]
        if (probing := self._probing.pop(number, None)) is None:
            return []
        member = self._membership.get(probing.node)
        self.health = max(0, self.health - 1)
        if member is None:
            return []
        if not member.is_in_ring:
            return [Compare(member.peer, member.id, b"")]
        if said is None or not said.digest:  # over TCP, or through a helper
            return []
        member.used_bytes = said.used_bytes
        timed: list[Action] = [Timed(member.id, now - probing.began_at)]
        if said.digest != digest:
            timed.append(Compare(member.peer, member.id, said.digest))
        return timed

    def answered(self, now: float, number: int, digest: bytes) -> list[Action]:
        """A Call of that number was answered."""
        return self._heard(now, number, digest)

    def refused(self, now: float, number: int) -> list[Member]:
        """Nobody listens where it was. That, after its connection broke, is as good as a period of silence."""
        probing = self._probing.get(number)
        if probing is None or probing.helpers or probing.is_revival:
            return []
        del self._probing[number]
        return self._suspect(now, probing.node)

    # -- inside -------------------------------------------------------------------------------------------------

    def _next(self) -> Member | None:
        """Whose turn it is."""
        if self._version != self._membership.version:
            self._version = self._membership.version
            self._give_turns()
        for _ in range(2):
            while self._turns:
                member = self._membership.get(self._turns.pop())
                if member is not None and member.is_in_ring:
                    return member
            self._turns = list(self._membership.in_ring_ids)
            self._rng.shuffle(self._turns)
        return None

    def _give_turns(self) -> None:
        """Newcomers come in at random places (SWIM, section 4.3): they may die before a round is over."""
        ids = self._membership.in_ring_ids
        for node in ids:
            if node not in self._had_turns:
                self._turns.insert(self._rng.randrange(len(self._turns) + 1), node)
        self._had_turns = set(ids)

    def _probe(self, now: float, member: Member, digest: bytes, *, is_revival: bool = False) -> Send:
        slower = 1 + self.health
        direct_s = PERIOD_S if is_revival else DIRECT_S  # nobody is asked to help there
        probing = _Probing(member.id, now, now + direct_s * slower, now + PERIOD_S * slower, is_revival)
        self._probing[self._take_number()] = probing
        return Send(member.peer, Probe(self._number, member.id, self._membership.me, digest), member.id)

    def _seek_help(self, number: int, probing: _Probing) -> list[Action]:
        member = self._membership.get(probing.node)
        ids = self._membership.in_ring_ids
        drawn = self._rng.sample(ids, min(HELPERS + 1, len(ids)))
        helpers = [self._membership.get(node) for node in drawn if node != probing.node][:HELPERS]
        actions: list[Action] = []
        if member is not None:
            ask = ProbeFor(number, member.id, *member.peer)
            actions += [Send(helper.peer, ask, helper.id) for helper in helpers if helper is not None]
        probing.helpers = max(1, len(actions))
        probing.heard_helpers += not actions  # nobody to hear
        if not probing.has_called:
            actions.append(Call(probing.node, number))
        return actions

    def _failed(self, now: float, probing: _Probing) -> list[Member]:
        if probing.is_revival:
            return []
        self._worse(max(0, probing.helpers - probing.heard_helpers))
        return self._suspect(now, probing.node)

    def _suspect(self, now: float, node: NodeId) -> list[Member]:
        member = self._membership.get(node)
        if member is None or not member.is_in_ring:
            return []
        return self._membership.heard_suspected(now, Suspected(node, member.incarnation, self._membership.me))

    def _revive(self, now: float, digest: bytes) -> list[Action]:
        gone = self._membership.gone_ids
        member = self._membership.get(self._rng.choice(gone)) if gone else None
        if member is None:
            return []
        self._revivals += 1
        send = self._probe(now, member, digest, is_revival=True)
        if self._revivals % REVIVE_TCP_EVERY == 0:
            return [send, Call(member.id, self._number)]
        return [send]

    def _notice_refutations(self) -> None:
        if self._membership.refutations != self._refutations:
            self._refutations = self._membership.refutations
            self._worse(1)

    def _worse(self, by: int) -> None:
        self.health = min(HEALTH_MAX, self.health + by)

    def _take_number(self) -> int:
        self._number = (self._number + 1) % 2**32
        return self._number
