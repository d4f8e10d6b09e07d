"""node/membership.py: what this node believes of the others."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from edgecache.node.membership import (
    CONFIRMATIONS_MAX,
    GONE_REMEMBERED_S,
    MEMBERS_MAX,
    SUSPICION_MAX_S,
    SUSPICION_MIN_S,
    Member,
    Membership,
    State,
)
from edgecache.node.rumors import Rumors
from edgecache.protocol import datagrams
from edgecache.protocol.datagrams import Alive, Gone, Suspected
from edgecache.protocol.messages import INCARNATION_MAX, Hello

PEER, HTTP = ("10.0.0.2", 7441), ("10.0.0.2", 7440)


def hello(node: str = "b", boot: str = "1") -> Hello:
    return Hello(1, "default", node, boot, f"name of {node}", PEER[0], 7441, HTTP[0], 7440, 1024)


def alive(node: str = "b", incarnation: int = 0, boot: str = "1") -> Alive:
    return Alive(node, incarnation, boot, f"name of {node}", *PEER, *HTTP, 1024)


def knowing(*nodes: str, me: str = "a") -> Membership:
    membership = Membership(me, "boot-of-a", Rumors())
    membership.introduce(hello(me, "boot-of-a"))
    for node in nodes:
        membership.heard_alive(0.0, alive(node))
    return membership


def the(membership: Membership, node: str = "b") -> Member:
    member = membership.get(node)
    assert member is not None
    return member


def told(membership: Membership) -> list[datagrams.Rumor]:
    rumors = membership._rumors.take(100_000, 200)
    encoded = datagrams.decode_datagram(datagrams.encode_datagram(datagrams.News(), rumors))[1]
    return [datagrams.decode_rumor(rumor) for rumor in encoded]


# -- one order for all claims ----------------------------------------------------------------------------------------

CLAIMS: list[datagrams.Rumor] = [
    alive("b", 0), Suspected("b", 0, "c"), Gone("b", 0, False), alive("b", 1), Suspected("b", 1, "c"), alive("b", 2),
    Gone("b", 2, False), Gone("b", 2, True),
]  # fmt: skip


def hear(membership: Membership, claim: datagrams.Rumor, now: float = 1.0) -> list[Member]:
    match claim:
        case Alive():
            return membership.heard_alive(now, claim)
        case Suspected():
            return membership.heard_suspected(now, claim)
        case Gone():
            return membership.heard_gone(now, claim)
    raise AssertionError(claim)


def test_the_order_in_which_claims_are_heard_does_not_matter() -> None:
    for first, second, third in itertools.permutations(CLAIMS, 3):
        membership = knowing("b")
        for claim in (first, second, third):
            hear(membership, claim)
            membership.check()
        strongest = max((first, second, third), key=CLAIMS.index)
        expected = knowing("b")
        hear(expected, strongest)
        assert (the(membership).incarnation, the(membership).state) == (the(expected).incarnation, the(expected).state)


def test_who_is_suspected_stays_in_the_ring_and_who_is_dead_does_not() -> None:
    membership = knowing("b")
    assert membership.heard_suspected(1.0, Suspected("b", 0, "c")) == [the(membership)]
    assert [member.id for member in membership.in_ring()] == ["b"]
    assert not membership.is_alive("b")
    membership.heard_gone(2.0, Gone("b", 0, False))
    assert membership.in_ring() == []
    assert membership.size == 1


def test_the_dead_come_back_by_their_own_word_and_by_nobody_elses() -> None:
    membership = knowing("b")
    membership.heard_gone(1.0, Gone("b", 0, False))
    assert membership.heard_alive(2.0, alive("b", 0)) == []
    assert membership.heard_alive(2.0, alive("b", 1)) == [the(membership)]
    assert membership.is_alive("b")


def test_a_later_boot_takes_the_place_of_the_earlier() -> None:
    membership = knowing("b")
    the(membership).used_bytes = 17
    version = membership.version
    membership.met(1.0, hello(boot="2"), PEER, HTTP)
    assert (the(membership).boot, the(membership).used_bytes) == ("2", 0)
    assert membership.version > version
    assert membership.heard_alive(2.0, alive(boot="1")) == []


def test_a_goodbye_is_for_good_until_a_later_boot_has_heard_of_it() -> None:
    membership = knowing("b")
    membership.left(1.0, "b", "another boot")
    assert membership.is_alive("b")
    membership.left(1.0, "b", "1")
    assert the(membership).state is State.LEFT
    assert membership.met(2.0, hello(), PEER, HTTP) == []
    restarted = Membership("b", "2", Rumors())
    restarted.introduce(hello("b", "2"))
    restarted.heard_all(2.0, membership.described())
    (said,) = [rumor for rumor in told(restarted) if isinstance(rumor, Alive) and rumor.id == "b"]
    assert membership.heard_alive(2.1, Alive("b", said.incarnation, "2", "b", *PEER, *HTTP, 1)) == [the(membership)]


# -- rumors about this node ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim", [Suspected("a", 0, "b"), Gone("a", 0, False), Gone("a", 0, True), alive("a", 0, "old")]
)
def test_what_is_said_against_this_node_it_denies(claim: datagrams.Rumor) -> None:
    membership = knowing("b")
    told(membership)
    assert hear(membership, claim) == []
    (denial,) = [rumor for rumor in told(membership) if isinstance(rumor, Alive) and rumor.id == "a"]
    assert (denial.incarnation, denial.boot) == (1, "boot-of-a")
    assert membership.refutations == 1


def test_an_old_rumor_about_this_node_is_not_worth_an_answer() -> None:
    membership = knowing("b")
    hear(membership, Suspected("a", 5, "b"))
    assert membership.incarnation == 6
    hear(membership, Suspected("a", 5, "b"))
    assert (membership.incarnation, membership.refutations) == (6, 1)


def test_the_greatest_incarnation_does_no_harm() -> None:
    membership = knowing("b")
    hear(membership, Gone("a", INCARNATION_MAX, False))
    assert membership.incarnation == INCARNATION_MAX
    hear(membership, Gone("a", INCARNATION_MAX, False))
    datagrams.decode_datagram(datagrams.encode_datagram(datagrams.News(), membership._rumors.take(10_000, 5)))


def test_who_leaves_denies_nothing_any_more() -> None:
    membership = knowing("b")
    membership.leave()
    hear(membership, Gone("a", 0, True))
    assert membership.incarnation == 0
    assert membership.described()[0].state == 3


# -- suspicion -------------------------------------------------------------------------------------------------------


def time_to_death(others: int, confirmations: int) -> float:
    membership = knowing("b", *(f"c{number}" for number in range(others)))
    for number in range(confirmations + 1):
        membership.heard_suspected(0.0, Suspected("b", 0, f"c{number}"))
        membership.heard_suspected(0.0, Suspected("b", 0, f"c{number}"))  # the same accuser again confirms nothing
    ends_at = membership.deadline()
    assert membership.tick(ends_at - 0.001) == []
    assert membership.tick(ends_at) == [the(membership)]
    assert the(membership).state is State.DEAD
    membership.check()
    return ends_at


def test_one_accuser_alone_has_to_wait_and_each_that_agrees_makes_it_shorter() -> None:
    times = [time_to_death(10, confirmations) for confirmations in range(CONFIRMATIONS_MAX + 3)]
    assert times == sorted(times, reverse=True)
    assert times[0] == SUSPICION_MAX_S
    assert times[CONFIRMATIONS_MAX:] == [SUSPICION_MIN_S] * 3


def test_where_nobody_could_agree_the_shortest_time_counts() -> None:
    assert time_to_death(0, 0) == SUSPICION_MIN_S  # this node and the accused
    assert time_to_death(1, 0) == SUSPICION_MAX_S
    assert time_to_death(1, 1) == SUSPICION_MIN_S


def test_a_denial_ends_a_suspicion() -> None:
    membership = knowing("b", "c")
    membership.heard_suspected(1.0, Suspected("b", 0, "c"))
    membership.heard_alive(2.0, alive("b", 1))
    assert membership.tick(100.0) == []
    assert membership.is_alive("b")


def test_confirmations_are_told_on_but_only_as_many_as_count() -> None:
    membership = knowing("b")
    told(membership)
    for number in range(20):
        membership.heard_suspected(1.0, Suspected("b", 0, f"c{number}"))
    assert len([rumor for rumor in told(membership) if isinstance(rumor, Suspected)]) == CONFIRMATIONS_MAX + 1


def test_a_stall_of_this_node_gives_the_suspects_as_much_longer() -> None:
    membership = knowing("b")
    membership.heard_suspected(0.0, Suspected("b", 0, "a"))
    membership.stalled(20.0)
    assert membership.tick(20.0) == []
    assert membership.tick(20.0 + SUSPICION_MIN_S) == [the(membership)]


def test_what_is_believed_against_a_member_can_be_told_to_it() -> None:
    membership = knowing("b")
    assert membership.doubts("b") is None
    assert membership.doubts("nobody") is None
    membership.heard_suspected(1.0, Suspected("b", 0, "c"))
    assert membership.doubts("b") == datagrams.encode_rumor(Suspected("b", 0, "c"))
    membership.heard_gone(1.0, Gone("b", 0, False))
    assert membership.doubts("b") == datagrams.encode_rumor(Gone("b", 0, False))


# -- everything at once ----------------------------------------------------------------------------------------------


def test_whom_a_peer_holds_for_dead_is_only_suspected_here() -> None:
    ours, theirs = knowing("b", "c"), knowing("b", "c", me="d")
    theirs.heard_gone(1.0, Gone("b", 0, False))
    theirs.heard_gone(1.0, Gone("c", 0, True))
    ours.heard_all(2.0, theirs.described())
    assert (the(ours, "b").state, the(ours, "c").state, the(ours, "d").state) == ("suspect", "left", "alive")
    ours.check()


def test_the_dead_of_others_are_not_made_members() -> None:
    theirs = knowing("b", me="d")
    theirs.heard_gone(1.0, Gone("b", 0, False))
    ours = knowing()
    ours.heard_all(2.0, theirs.described())
    assert [member.id for member in ours.all()] == ["d"]


def test_an_address_is_kept_where_none_is_told() -> None:
    membership = knowing("b")
    membership.heard_alive(1.0, Alive("b", 1, "1", "b", "", 7441, "", 0, 1024))
    assert (the(membership).peer, the(membership).http) == (PEER, HTTP)
    assert membership.heard_alive(1.0, Alive("nowhere", 0, "1", "", "", 7441, "", 0, 1)) == []
    assert membership.get("nowhere") is None


def test_who_was_met_on_loopback_is_told_of_on_loopback_only() -> None:
    for tells, expected in ((False, ["a"]), (True, ["a", "b"])):
        membership = Membership("a", "1", Rumors(), tells_loopback=tells)
        membership.introduce(hello("a"))
        membership.met(0.0, hello("b"), ("127.0.0.1", 7441), ("127.0.0.1", 7440))
        assert [member.id for member in membership.described()] == expected
        assert sorted(rumor.id for rumor in told(membership) if isinstance(rumor, Alive)) == expected


def test_two_nodes_that_have_the_same_boots_in_the_ring_have_the_same_digest() -> None:
    a, b = Membership("a", "1", Rumors()), Membership("b", "1", Rumors())
    a.heard_alive(0.0, alive("b"))
    assert a.digest() != b.digest()
    b.heard_alive(0.0, alive("a"))
    assert a.digest() == b.digest()
    b.heard_alive(0.0, alive("a", boot="2"))
    assert a.digest() != b.digest()


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_the_longest_gone_makes_room_and_the_living_do_not() -> None:
    membership = knowing(*(f"n{number}" for number in range(MEMBERS_MAX)))
    assert membership.heard_alive(0.0, alive("one too many")) == []
    membership.left(1.0, "n7", "1")
    assert membership.heard_alive(2.0, alive("one too many")) != []
    assert membership.get("n7") is None
    membership.check()


def test_the_gone_are_forgotten_after_an_hour() -> None:
    membership = knowing("b", "c")
    membership.left(0.0, "b", "1")
    membership.heard_gone(10.0, Gone("c", 0, False))
    membership.heard_alive(20.0, alive("c", 1))
    assert membership.deadline() == GONE_REMEMBERED_S
    membership.tick(GONE_REMEMBERED_S + 10.0)
    assert [member.id for member in membership.all()] == ["c"]
    membership.check()


def test_a_tick_at_the_deadline_is_enough_whenever_that_is() -> None:
    rng = random.Random(1)
    for went_at in (rng.uniform(0, 20_000) for _ in range(200)):  # plus an hour less themselves: often less
        membership = knowing("b")
        membership.left(went_at, "b", "1")
        membership.tick(membership.deadline())
        assert membership.all() == []
        assert membership.deadline() == math.inf
