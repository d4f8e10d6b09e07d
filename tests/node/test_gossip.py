"""node/gossip.py: what nodes tell each other."""

from __future__ import annotations

import pytest
from edgecache.node.gossip import Gossip
from edgecache.node.membership import Membership
from edgecache.node.versions import Versions
from edgecache.protocol import messages
from edgecache.protocol.errors import RemoteProtocolError
from edgecache.protocol.keys import EncoderIdentity

MINE = EncoderIdentity.declared("mine", "1")


def knowing(node: str, *met: str, host: str = "10.0.0.9", tells_loopback: bool = False) -> tuple[Gossip, Versions]:
    membership, versions = Membership(node, 0.0), Versions()
    for other in met:
        hello = messages.Hello(1, "default", other, "1", other.upper(), "", 7441, "", 7440, 1024)
        membership.met(0.0, hello, (host, 7441), (host, 7440))
    return Gossip(membership, versions, tells_loopback=tells_loopback), versions


def test_what_one_knows_the_other_knows_after_a_merge() -> None:
    (one, told), (other, heard) = knowing("a", "b", "c"), knowing("b", "a", "c")
    told.learn(MINE)
    told.make_current("mine", "2")
    assert one.digest() != other.digest()
    to_call, outdated = other.merge(one.state())
    assert outdated == ["mine"]
    assert heard.known() == [MINE]
    assert not heard.is_current(MINE)
    assert one.digest() == other.digest()
    assert [(sighting.id, sighting.address) for sighting in to_call] == [("c", ("10.0.0.9", 7441))]


def test_what_is_known_already_is_no_news() -> None:
    (one, told), (other, _) = knowing("a"), knowing("b")
    told.make_current("mine", "2")
    assert other.merge(one.state())[1] == ["mine"]
    assert other.merge(one.state())[1] == []


def test_who_was_met_on_loopback_is_told_of_on_loopback_only() -> None:
    assert knowing("a", "b", host="127.0.0.1")[0].state().members == []
    assert len(knowing("a", "b", host="127.0.0.1", tells_loopback=True)[0].state().members) == 1


@pytest.mark.parametrize(
    "state",
    [
        messages.State([messages.Member("x", "1", "x", "10.0.0.1", 1)] * 257, [], []),
        messages.State([], [messages.Encoder("x", "1", bytes(32))] * 65, []),
        messages.State([], [messages.Encoder("x", "1", bytes(5))], []),
        messages.State([], [messages.Encoder("a b", "1", bytes(32))], []),
        messages.State([], [], [messages.CurrentVersion("mine", "2", 2**63)]),
        messages.State([], [], [messages.CurrentVersion("mine", "\n", 1)]),
    ],
)
def test_what_no_correct_peer_says_is_refused(state: messages.State) -> None:
    with pytest.raises(RemoteProtocolError):
        knowing("a")[0].merge(state)


def test_a_member_at_an_impossible_port_is_not_called() -> None:
    state = messages.State([messages.Member("x", "1", "x", "10.0.0.1", 0)], [], [])
    assert knowing("a")[0].merge(state) == ([], [])
