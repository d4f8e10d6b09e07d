"""node/gossip.py: what nodes tell each other."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from edgecache.node.gossip import SETTLED_S, Gossip
from edgecache.node.membership import GONE_REMEMBERED_S, Membership, State
from edgecache.node.removals import Removals
from edgecache.node.rumors import Rumors
from edgecache.node.sightings import Sighting
from edgecache.node.versions import Versions
from edgecache.protocol import datagrams, messages
from edgecache.protocol.datagrams import Alive, Gone, News, NowCurrent, Suspected
from edgecache.protocol.errors import RemoteProtocolError
from edgecache.protocol.frames import HEAD_BYTES_MAX
from edgecache.protocol.keys import EncoderIdentity

MINE = EncoderIdentity.declared("mine", "1")


class Room:
    """One node's gossip."""

    def __init__(self, node: str, *met: str) -> None:
        self.rumors = Rumors()
        self.membership, self.versions = Membership(node, f"boot-of-{node}", self.rumors), Versions()
        self.membership.introduce(hello(node))
        for other in met:
            self.membership.met(0.0, hello(other), (f"at-{other}", 7441), (f"at-{other}", 7440))
        self.removals = Removals(random.Random(node))
        self.gossip = Gossip(self.membership, self.versions, self.removals, self.rumors)

    def encoded(self, to: str | None = None) -> Sequence[bytes | memoryview]:
        said = datagrams.encode_datagram(News(), self.gossip.beside(News(), to))
        return [memoryview(rumor) for rumor in datagrams.decode_datagram(said)[1]]

    def says(self, to: str | None = None) -> list[datagrams.Rumor]:
        return [datagrams.decode_rumor(rumor) for rumor in self.encoded(to)]


def hello(node: str) -> messages.Hello:
    return messages.Hello(
        1, "default", node, f"boot-of-{node}", node.upper(), f"at-{node}", 7441, f"at-{node}", 7440, 1024
    )


def test_what_one_knows_the_other_knows_after_an_exchange() -> None:
    one, other = Room("a", "b", "c"), Room("b")
    one.versions.learn(MINE)
    one.versions.make_current("mine", "2")
    assert one.gossip.digest() != other.gossip.digest()
    heard = other.gossip.merge(1.0, one.gossip.state())
    assert [member.id for member in heard.changed] == ["a", "c"]
    assert heard.outdated == ["mine"]
    assert other.versions.known() == [MINE]
    assert not other.versions.is_current(MINE)
    assert one.gossip.digest() == other.gossip.digest()


def test_what_one_knows_the_other_knows_after_its_rumors() -> None:
    one, other = Room("a", "c"), Room("b", "a")
    one.versions.learn(MINE)
    one.versions.make_current("mine", "2")
    one.gossip.tell_current("mine")
    one.gossip.digest()
    heard = other.gossip.hear(1.0, one.says())
    assert [member.id for member in heard.changed] == ["c"]
    assert heard.outdated == ["mine"]
    assert other.versions.known() == [MINE]
    assert NowCurrent("mine", "2", 1) in other.says()  # and tells it on


def test_a_rumor_that_was_heard_before_is_no_news_unless_it_might_be() -> None:
    one, other = Room("a", "c"), Room("b")
    alive = one.encoded()
    gone = [datagrams.encode_rumor(Gone("c", 0, False))]
    heard = other.gossip.hear_encoded(1.0, gone)
    assert heard is not None
    assert heard.changed == []  # of nobody whom it knows
    heard = other.gossip.hear_encoded(1.0, alive)
    assert heard is not None
    assert sorted(member.id for member in heard.changed) == ["a", "c"]
    assert other.gossip.hear_encoded(2.0, alive) is None
    heard = other.gossip.hear_encoded(2.0, [*alive, *gone])
    assert heard is not None
    assert [(member.id, member.state) for member in heard.changed] == [("c", State.DEAD)]
    other.membership.tick(2.0 + GONE_REMEMBERED_S)
    assert other.membership.get("c") is None
    heard = other.gossip.hear_encoded(3.0 + GONE_REMEMBERED_S, alive)
    assert heard is not None
    assert [member.id for member in heard.changed] == ["c"]


def test_of_rumors_that_do_not_decode_none_is_taken() -> None:
    one, other = Room("a", "c"), Room("b")
    with pytest.raises(RemoteProtocolError):
        other.gossip.hear_encoded(1.0, [*one.encoded(), b"\x93nonsense"])
    assert other.membership.all() == []


def test_who_has_just_told_what_it_knows_is_told_what_it_does_not_know() -> None:
    one, other = Room("a", "b", "c", "d"), Room("b", "a", "c")
    one.membership.heard_suspected(1.0, Suspected("c", 0, "d"))
    one.versions.make_current("mine", "2")
    told = one.gossip.state(beyond=other.gossip.state())
    assert {member.id: State(list(State)[member.state]) for member in told.members} == {
        "a": State.ALIVE,  # itself
        "c": State.SUSPECT,
        "d": State.ALIVE,
    }
    heard = other.gossip.merge(2.0, told)
    assert heard.is_all
    assert [member.id for member in heard.changed] == ["c", "d"]
    assert heard.outdated == ["mine"]
    assert one.gossip.digest() == other.gossip.digest()


def test_what_is_known_already_is_no_news() -> None:
    one, other = Room("a"), Room("b")
    one.versions.make_current("mine", "2")
    assert other.gossip.merge(0.0, one.gossip.state()).outdated == ["mine"]
    assert other.gossip.merge(0.0, one.gossip.state()).outdated == []
    assert other.gossip.hear(0.0, [NowCurrent("mine", "1", 1)]).outdated == []


def test_whoever_is_suspected_hears_it_first_of_all() -> None:
    room = Room("a", *(f"n{number}" for number in range(100)))
    room.membership.heard_suspected(0.0, Suspected("n7", 0, "a"))
    for _ in range(100):
        room.says()
    assert room.says("n7") == [Suspected("n7", 0, "a")]
    assert room.says("n8") == []


def test_a_datagram_with_its_rumors_is_no_longer_than_one_may_be() -> None:
    room = Room("a", *(f"{number:064}" for number in range(100)))
    room.membership.heard_suspected(0.0, Suspected(f"{7:064}", 0, "a"))
    for said in (News(), datagrams.Probe(2**32 - 1, "x" * 64, "y" * 64, bytes(64))):
        rumors = room.gossip.beside(said, f"{7:064}")
        assert len(rumors) > 3
        assert len(datagrams.encode_datagram(said, rumors)) <= datagrams.DATAGRAM_BYTES_MAX


def test_of_more_members_than_a_message_holds_others_are_told_each_time() -> None:
    room = Room("a", *(f"{number:064}" for number in range(600)))
    told = [room.gossip.state() for _ in range(4)]
    assert all(len(messages.encode(state)) <= HEAD_BYTES_MAX for state in told)
    assert max(len(state.members) for state in told) < 601
    assert len({member.id for state in told for member in state.members}) == 601


def test_somebody_with_this_nodes_id_is_called() -> None:
    heard = Room("a").gossip.hear(0.0, [Alive("a", 3, "another", "twin", "10.0.0.9", 7441, "", 0, 1)])
    assert heard.to_call == [Sighting("a", "another", "twin", ("10.0.0.9", 7441))]


def test_everything_is_exchanged_only_where_rumors_have_not_settled_it_and_once() -> None:
    room = Room("a", "b")
    assert not room.gossip.is_worth_an_exchange(10.0, "b", b"else")
    assert not room.gossip.is_worth_an_exchange(10.0 + SETTLED_S / 2, "b", b"else")
    assert room.gossip.is_worth_an_exchange(10.0 + SETTLED_S, "b", b"else")
    room.gossip.exchanged("b", b"else")
    assert not room.gossip.is_worth_an_exchange(20.0, "b", b"else")
    assert room.gossip.is_worth_an_exchange(20.0, "b", b"and now else")
    room.membership.heard_gone(20.0, datagrams.Gone("b", 0, False))
    assert not room.gossip.is_worth_an_exchange(20.0, "b", b"else")
    assert room.gossip.is_worth_an_exchange(20.0 + SETTLED_S, "b", b"else")


@pytest.mark.parametrize(
    "state",
    [
        messages.State([messages.Member("x", "1", "x", "10.0.0.1", 1)] * 1025, [], []),
        messages.State([], [messages.Encoder("x", "1", bytes(32))] * 65, []),
        messages.State([], [messages.Encoder("x", "1", bytes(5))], []),
        messages.State([], [messages.Encoder("a b", "1", bytes(32))], []),
        messages.State([], [], [messages.CurrentVersion("mine", "2", 2**63)]),
        messages.State([], [], [messages.CurrentVersion("mine", "\n", 1)]),
    ],
)
def test_what_no_correct_peer_says_is_refused(state: messages.State) -> None:
    with pytest.raises(RemoteProtocolError):
        Room("a").gossip.merge(0.0, state)


def test_a_member_at_an_impossible_port_is_not_made_one() -> None:
    state = messages.State([messages.Member("x", "1", "x", "10.0.0.1", 0)], [], [])
    assert Room("a").gossip.merge(0.0, state).changed == []


def test_the_dead_of_the_other_side_of_a_split_live_on() -> None:
    ours, theirs = Room("a", "b"), Room("c", "a", "b")
    for node in ("a", "b"):
        theirs.membership.heard_gone(1.0, datagrams.Gone(node, 0, False))
    ours.gossip.merge(2.0, theirs.gossip.state())
    assert {member.id: member.state for member in ours.membership.all()} == {"b": State.SUSPECT, "c": State.ALIVE}
    theirs.gossip.merge(3.0, ours.gossip.state())
    assert theirs.membership.is_alive("a")  # which has denied it meanwhile
