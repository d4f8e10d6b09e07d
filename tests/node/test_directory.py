"""node/directory.py: who holds what, as far as the others have told."""

from __future__ import annotations

from array import array

import pytest
from edgecache.node import directory as limits
from edgecache.node.directory import FOLLOWED_MAX, Directory
from edgecache.node.journal import TOLD_MAX, Journal, boot_of
from edgecache.protocol import datagrams, fingerprints, messages
from edgecache.protocol.datagrams import Changes, ListNews
from edgecache.protocol.errors import RemoteProtocolError
from edgecache.protocol.messages import Keys
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

NAMES = ("a", "b", "c")


class Node:
    """A directory, and what its node really holds."""

    def __init__(self, name: str, boot: int = 0) -> None:
        self.name = name
        self.held: set[bytes] = set()
        self.directory = Directory(name, Journal(f"{name} {boot}", self.held.__contains__))

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.held.add(key(number))
            self.directory.journal.touch(key(number))

    def remove(self, *numbers: int) -> None:
        for number in numbers:
            self.held.discard(key(number))
            self.directory.journal.touch(key(number))

    def probes(self, other: Node, *, is_answer_lost: bool = False, members: int = len(NAMES)) -> None:
        """A probe of `other`, its answer, and what has to be fetched then."""
        other.directory.heard(self.name, self.directory.news_for(other.name, members), members)
        answer = other.directory.news_for(self.name, members)
        if not is_answer_lost and self.directory.heard(other.name, answer, members):
            self.directory.take(other.name, *other.directory.journal.told(self.directory.has(other.name)))

    def finds(self, number: int) -> list[str]:
        return self.directory.holders(key(number))


def key(number: int) -> bytes:
    return b"%064d" % number


def test_one_probe_tells_each_what_the_other_holds() -> None:
    one, other = Node("a"), Node("b")
    one.put(1)
    other.put(2)
    one.probes(other)  # which knows from now on that it is followed
    one.probes(other)
    assert (one.finds(2), other.finds(1)) == (["b"], ["a"])
    one.put(3)
    other.remove(2)
    one.probes(other)
    assert (one.finds(2), other.finds(3)) == ([], ["a"])


def test_what_a_lost_datagram_told_is_told_again() -> None:
    one, other = Node("a"), Node("b")
    one.probes(other)
    one.put(1)
    one.directory.news_for("b", 2)  # nobody hears it
    one.probes(other)
    other.probes(one)
    assert other.finds(1) == ["a"]


def test_what_a_datagram_does_not_hold_is_fetched_by_whoever_hears_the_answer() -> None:
    one, other = Node("a"), Node("b")
    other.put(*range(TOLD_MAX + 1))
    other.directory.heard("a", one.directory.news_for("b", 2), 2)
    assert one.directory.heard("b", other.directory.news_for("a", 2), 2)
    keys, blob = other.directory.journal.told(one.directory.has("b"))
    assert keys.since == 0
    one.directory.take("b", keys, blob)
    assert one.finds(TOLD_MAX) == ["b"]
    other.put(*range(1000, 1000 + TOLD_MAX + 1))
    one.probes(other)
    assert one.finds(1000) == ["b"]


def test_a_node_that_has_restarted_tells_its_list_anew() -> None:
    one, other = Node("a"), Node("b")
    other.put(*range(5))
    one.probes(other)
    one.probes(other)
    reborn = Node("b", boot=1)
    reborn.put(*range(3, 10))
    one.probes(reborn)
    assert [number for number in range(12) if one.finds(number)] == list(range(3, 10))


def test_who_has_not_what_it_is_said_to_have_is_not_asked_again() -> None:
    one, other = Node("a"), Node("b")
    other.put(1)
    one.probes(other)
    assert one.finds(1) == ["b"]
    one.directory.correct("b", key(1))
    one.directory.correct("b", key(1))
    assert (one.finds(1), one.directory.corrections) == ([], 1)
    other.remove(1)
    one.probes(other)
    other.put(1)
    one.probes(other)
    assert one.finds(1) == ["b"]


def test_who_is_gone_holds_nothing() -> None:
    one, other = Node("a"), Node("b")
    other.put(1)
    one.probes(other)
    one.directory.forget("b")
    assert (one.finds(1), one.directory.has("b"), one.directory.entries) == ([], 0, 0)
    one.probes(other)
    assert one.finds(1) == ["b"]


def test_in_a_large_cluster_a_node_follows_some_and_all_of_them_are_followed() -> None:
    members = [f"{number:032x}" for number in range(1000)]
    followed = [sum(Directory(me, _journal()).is_followed(other, 1000) for other in members) for me in members[:50]]
    assert FOLLOWED_MAX / 2 < min(followed) <= max(followed) < FOLLOWED_MAX * 2
    followers = [sum(Directory(me, _journal()).is_followed(other, 1000) for me in members) for other in members[:20]]
    assert min(followers) > FOLLOWED_MAX / 2
    one, other = Node(members[0]), Node(members[1])
    assert one.directory.is_followed(other.name, FOLLOWED_MAX + 1)
    other.put(1)
    one.probes(other)
    assert one.finds(1)
    is_followed = one.directory.is_followed(other.name, 100_000)
    one.probes(other, members=100_000)
    assert (one.finds(1), one.directory.entries) == (([other.name], 1) if is_followed else ([], 0))


def test_no_more_is_known_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENTRIES_MAX", 100)
    one, other, third = Node("a"), Node("b"), Node("c")
    other.put(*range(90))
    third.put(*range(20))
    one.probes(other)
    one.probes(third)
    assert (one.directory.entries, one.directory.has("c")) == (90, 0)
    assert one.directory.news_for("c", 3).has is None  # and it is not told again and again
    one.directory.forget("b")
    one.probes(third)
    one.probes(third)
    assert one.directory.entries == 20


def _journal() -> Journal:
    return Journal("boot", lambda key: False)


# -- what no correct node says ---------------------------------------------------------------------------------------

VERSION = 5 << 40


@pytest.mark.parametrize(
    "news",
    [
        ListNews(VERSION + 9, 0, Changes(VERSION + 1, bytes(3), b"")),
        ListNews(VERSION + 9, 0, Changes(VERSION + 1, b"", bytes(5))),
        ListNews(2 * VERSION, 0, Changes(VERSION + 1, bytes(4), b"")),
    ],
)
def test_nonsense_in_a_datagram_is_refused(news: ListNews) -> None:
    with pytest.raises(RemoteProtocolError):
        Directory("a", _journal()).heard("b", news, 2)


@pytest.mark.parametrize(
    ("keys", "blob"),
    [
        (Keys(0, VERSION, 10, 0), b""),
        (Keys(0, VERSION, 2**18, 0), bytes(1000)),
        (Keys(0, VERSION, 1, 0), bytes(6)),
        (Keys(VERSION + 1, VERSION + 2, 1, 1), bytes(4)),
        (Keys(VERSION + 1, VERSION + 2, 0, 1), bytes(5)),
        (Keys(VERSION + 1, 2 * VERSION, 1, 0), bytes(4)),
    ],
)
def test_nonsense_over_tcp_is_refused_and_changes_nothing(keys: Keys, blob: bytes) -> None:
    directory = Directory("a", _journal())
    directory.heard("b", ListNews(VERSION + 1, 0, Changes(0, fingerprints.listed([7]), b"")), 2)
    with pytest.raises(RemoteProtocolError):
        directory.take("b", keys, blob)
    assert (directory.entries, directory.has("b")) == (1, VERSION + 1)
    directory.check()


def test_changes_to_another_version_than_is_known_are_left_alone() -> None:
    directory = Directory("a", _journal())
    directory.heard("b", ListNews(VERSION + 5, 0, Changes(0, fingerprints.listed([7]), b"")), 2)
    more = fingerprints.listed([8])
    assert directory.heard("b", ListNews(VERSION + 9, 0, Changes(VERSION + 7, more, b"")), 2)  # a gap
    assert directory.heard("b", ListNews(VERSION + 4, 0, Changes(VERSION + 2, more, b"")), 2)  # late
    directory.take("c", Keys(0, VERSION, 0, 0), b"")  # has gone meanwhile
    assert directory.entries == 1
    assert not directory.heard(
        "b", ListNews(VERSION + 6, 0, Changes(VERSION + 3, more, b"")), 2
    )  # from before to after
    assert directory.entries == 2


@given(st.binary(max_size=datagrams.DATAGRAM_BYTES_MAX))
def test_garbage_beside_a_datagram_is_refused_or_understood(data: bytes) -> None:
    directory = Directory("a", _journal())
    try:
        _, _, news = datagrams.decode_datagram(data)
        if news is not None:
            directory.heard("b", news, 2)
    except RemoteProtocolError:
        pass
    directory.check()


def test_a_datagram_with_news_holds_no_more_than_one_may() -> None:
    news = ListNews(2**62, 2**62, Changes(2**62, bytes(messages.CHANGES_BYTES_MAX), b""))
    probe = datagrams.Probe(2**32 - 1, "x" * 64, "y" * 64, bytes(16))
    room = datagrams.rumors_room(probe, news)
    assert room > 400
    said = datagrams.encode_datagram(probe, [datagrams.encode_rumor(datagrams.Suspected("z", 0, "y"))], news)
    what, rumors, beside = datagrams.decode_datagram(said)
    assert (what, beside) == (probe, news)
    assert [datagrams.decode_rumor(rumor) for rumor in rumors] == [datagrams.Suspected("z", 0, "y")]
    assert datagrams.decode_datagram(datagrams.encode_datagram(probe, [])) == (probe, [], None)
    too_long = ListNews(2**62, 0, Changes(2**62, bytes(messages.CHANGES_BYTES_MAX + 4), b""))
    with pytest.raises(RemoteProtocolError):
        datagrams.decode_datagram(datagrams.encode_datagram(probe, [], too_long))


# -- whatever happens, all agree in the end --------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Three nodes that hold, lose, restart, probe and miss each other's answers, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {name: Node(name) for name in NAMES}
        self.boots = 0

    @rule(name=st.sampled_from(NAMES), first=st.integers(0, 400), count=st.integers(1, 300), is_put=st.booleans())
    def change(self, name: str, first: int, count: int, is_put: bool) -> None:
        node = self.nodes[name]
        (node.put if is_put else node.remove)(*range(first, first + count))

    @rule(name=st.sampled_from(NAMES))
    def restart(self, name: str) -> None:
        self.boots += 1
        self.nodes[name] = Node(name, self.boots)

    @rule(pair=st.permutations(NAMES), is_answer_lost=st.booleans())
    def probe(self, pair: list[str], is_answer_lost: bool) -> None:
        self.nodes[pair[0]].probes(self.nodes[pair[1]], is_answer_lost=is_answer_lost)

    @rule(pair=st.permutations(NAMES), number=st.integers(0, 700))
    def ask(self, pair: list[str], number: int) -> None:
        one, other = self.nodes[pair[0]], self.nodes[pair[1]]
        if other.name in one.finds(number) and key(number) not in other.held:
            one.directory.correct(other.name, key(number))

    @invariant()
    def bookkeeping_agrees(self) -> None:
        for node in self.nodes.values():
            node.directory.check()

    def teardown(self) -> None:
        for one in self.nodes.values():
            for other in self.nodes.values():
                if one is not other:
                    one.probes(other)
        for one in self.nodes.values():
            others = [other for other in self.nodes.values() if other is not one]
            for number in range(0, 700, 7):
                assert one.finds(number) == [] or set(one.finds(number)) <= set(NAMES)
                assert sorted(one.finds(number)) == sorted(o.name for o in others if key(number) in o.held)


AnyOrder.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_versions_tell_boots_apart() -> None:
    assert boot_of(VERSION + 3) == boot_of(VERSION) != boot_of(2 * VERSION)
    assert array("I").itemsize == fingerprints.FINGERPRINT_BYTES
