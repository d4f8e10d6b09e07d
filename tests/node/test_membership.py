"""node/membership.py: who is alive, by what this node heard itself."""

from __future__ import annotations

from edgecache.node.membership import DEAD_AFTER_S, GONE_REMEMBERED_S, MEMBERS_MAX, SUSPECT_AFTER_S, Membership, State
from edgecache.protocol.messages import Hello

PEER, HTTP = ("10.0.0.2", 7441), ("10.0.0.2", 7440)


def hello(node: str = "b", boot: str = "1") -> Hello:
    return Hello(1, "default", node, boot, f"name of {node}", "", 7441, "", 7440, 1024)


def met(node: str = "b", now: float = 0.0) -> Membership:
    membership = Membership("a", now)
    assert membership.met(now, hello(node), PEER, HTTP)
    return membership


def run_until(membership: Membership, end: float) -> list[tuple[float, State]]:
    """Tick whenever it is asked for; what changed, and when."""
    changes = []
    while (now := membership.deadline()) <= end:
        changes += [(now, member.state) for member in membership.tick(now)]
    return changes


def state(membership: Membership, node: str = "b") -> State:
    member = membership.get(node)
    assert member is not None
    return member.state


def test_a_member_that_falls_silent_is_suspected_and_then_dead() -> None:
    membership = met()
    assert run_until(membership, 60.0) == [(SUSPECT_AFTER_S, State.SUSPECT), (DEAD_AFTER_S, State.DEAD)]
    assert membership.in_ring() == []


def test_an_answer_clears_a_suspect() -> None:
    membership = met()
    run_until(membership, SUSPECT_AFTER_S)
    membership.answered(2.5, "b", used_bytes=17)
    assert membership.is_alive("b")
    assert [member.used_bytes for member in membership.in_ring()] == [17]


def test_a_broken_connection_makes_a_suspect_at_once_but_keeps_it_in_the_ring() -> None:
    membership = met()
    membership.lost(1.0, "b", "1")
    assert state(membership) is State.SUSPECT
    assert [member.id for member in membership.in_ring()] == ["b"]


def test_the_end_of_an_old_boots_connection_does_not_touch_the_new_boot() -> None:
    membership = met()
    membership.met(1.0, hello(boot="2"), PEER, HTTP)
    membership.lost(1.1, "b", "1")
    assert membership.is_alive("b")


def test_who_says_goodbye_is_out_of_the_ring_and_stays_out_until_it_starts_again() -> None:
    membership = met()
    membership.left(1.0, "b", "1")
    assert membership.in_ring() == []
    assert not membership.met(1.1, hello(), PEER, HTTP)
    assert membership.met(2.0, hello(boot="2"), PEER, HTTP)
    assert membership.is_alive("b")


def test_a_goodbye_of_an_old_boot_is_ignored() -> None:
    membership = met()
    membership.met(1.0, hello(boot="2"), PEER, HTTP)
    membership.left(1.1, "b", "1")
    assert membership.is_alive("b")


def test_a_stall_of_this_node_lets_nobody_die() -> None:
    membership = met()
    membership.tick(0.5)
    assert membership.tick(0.5 + 20.0) == []
    assert membership.is_alive("b")


def test_the_longest_gone_makes_room_and_the_living_do_not() -> None:
    membership = Membership("a", 0.0)
    for number in range(MEMBERS_MAX):
        assert membership.met(0.0, hello(f"n{number}"), PEER, HTTP)
    assert not membership.met(0.0, hello("one too many"), PEER, HTTP)
    membership.left(1.0, "n7", "1")
    assert membership.met(2.0, hello("one too many"), PEER, HTTP)
    assert membership.get("n7") is None


def test_the_gone_are_forgotten_after_an_hour() -> None:
    membership = met()
    membership.left(0.0, "b", "1")
    membership.tick(GONE_REMEMBERED_S)
    assert membership.all() == []


def test_two_nodes_that_hear_the_same_members_have_the_same_digest() -> None:
    a, b = Membership("a", 0.0), Membership("b", 0.0)
    a.met(0.0, hello("b"), PEER, HTTP)
    assert a.digest() != b.digest()
    b.met(0.0, hello("a"), PEER, HTTP)
    assert a.digest() == b.digest()
