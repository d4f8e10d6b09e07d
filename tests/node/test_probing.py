"""node/probing.py: who is asked, when, and what silence means."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from edgecache.node.membership import SUSPICION_MIN_S, Membership, State
from edgecache.node.probing import (
    DIRECT_S,
    HEALTH_MAX,
    HELPERS,
    HURRIED_MAX,
    PERIOD_S,
    RELAY_S,
    RELAYS_MAX,
    REVIVE_S,
    Action,
    Call,
    Compare,
    Prober,
    Send,
    Timed,
)
from edgecache.node.rumors import Rumors
from edgecache.protocol.datagrams import Alive, Gone, Here, NotHere, Probe, ProbeFor, Suspected

DIGEST = bytes(16)
STRANGE = ("10.9.9.9", 1)


class Story:
    """A prober that asks `nodes`, of which `dead` do not answer; everything it does, and when."""

    def __init__(self, *nodes: str, seed: int = 0) -> None:
        self.membership = Membership("a", "1", Rumors())
        for node in nodes:
            self.membership.heard_alive(0.0, Alive(node, 0, "1", node, node, 7441, "", 0, 1))
        self.prober = Prober(self.membership, 0.0, random.Random(seed))
        self.dead: set[str] = set()
        self.helpers_hear = True
        self.done: list[tuple[float, Action]] = []
        self.changed: list[tuple[float, str, State]] = []
        self.now = 0.0

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.prober.deadline()) <= end:
            self.now = max(self.now, deadline)
            actions, changed = self.prober.tick(self.now, DIGEST)
            self.changed += [(self.now, member.id, member.state) for member in changed]
            for action in actions:
                self.do(action)
        self.now = end

    def do(self, action: Action) -> None:
        self.done.append((self.now, action))
        match action:
            case Send(address, Probe(number, target, _, _)) if target not in self.dead:
                for following in self.prober.received(self.now, address, Here(number, DIGEST, 7), DIGEST, 0):
                    self.do(following)
            case Send(address, ProbeFor(number, target, _, _)) if self.helpers_hear:
                answer = NotHere(number) if target in self.dead else Here(number, b"", 0)
                self.prober.received(self.now, address, answer, DIGEST, 0)

    def asked(self, kind: type[Probe] | type[ProbeFor]) -> list[tuple[float, str]]:
        return [
            (round(at, 6), action.said.target)
            for at, action in self.done
            if isinstance(action, Send) and isinstance(action.said, Probe | ProbeFor) and type(action.said) is kind
        ]


def test_everybody_has_a_turn_in_each_round_and_one_a_second() -> None:
    story = Story("b", "c", "d", "e")
    story.run(40 * PERIOD_S)
    asked = [node for _, node in story.asked(Probe)]
    assert len(asked) == 40
    for begin in range(0, 40, 4):
        assert sorted(asked[begin : begin + 4]) == ["b", "c", "d", "e"]
    assert story.changed == []
    assert story.membership.all()[0].used_bytes == 7


def test_a_newcomer_has_its_turn_within_this_round() -> None:
    story = Story(*(f"n{number}" for number in range(100)))
    story.run(50.0)
    story.membership.heard_alive(50.0, Alive("new", 0, "1", "new", "new", 7441, "", 0, 1))
    story.run(51.0)
    assert "new" in [node for _, node in story.asked(Probe)]


def test_who_does_not_answer_is_asked_through_others_and_over_tcp_and_then_suspected() -> None:
    story = Story("b", "c", "d", "e", "f")
    story.dead = {"b"}
    story.run(30.0)
    began_at = next(at for at, node in story.asked(Probe) if node == "b")
    helped = [(at, node) for at, node in story.asked(ProbeFor) if at < began_at + PERIOD_S]
    assert helped == [(round(began_at + DIRECT_S, 6), "b")] * HELPERS
    assert next(action.node for _, action in story.done if isinstance(action, Call)) == "b"
    assert story.changed[0][0] == pytest.approx(began_at + PERIOD_S)
    assert story.changed[0][1:] == ("b", State.SUSPECT)
    assert story.changed[1][1:] == ("b", State.DEAD)
    assert story.prober.health == 0  # the helpers answered: it is not this node that is ill


def test_an_answer_through_a_helper_is_an_answer() -> None:
    story = Story("b", "c")
    story.dead = {"b"}
    story.run(30.0)
    assert story.changed
    story = Story("b", "c")

    def deaf_to_b(action: Action) -> None:
        if isinstance(action, Send) and isinstance(action.said, Probe) and action.said.target == "b":
            story.done.append((story.now, action))
        else:
            Story.do(story, action)

    story.do = deaf_to_b  # type: ignore[method-assign]
    story.run(30.0)
    assert story.asked(ProbeFor)
    assert story.changed == []


def test_a_late_answer_counts_as_long_as_the_period_lasts_and_only_once() -> None:
    story = Story("b")
    story.dead = {"b"}
    number = -1
    while number < 0:
        story.run(0.1)
        for _, action in story.done:
            if isinstance(action, Send) and isinstance(action.said, Probe):
                number = action.said.number
    story.run(PERIOD_S - 0.2)
    story.prober.received(story.now, STRANGE, Here(number, DIGEST, 0), DIGEST, 0)
    story.dead = set()
    story.run(20.0)
    assert story.changed == []
    assert story.prober.received(story.now, STRANGE, Here(number, b"else", 0), DIGEST, 0) == []


def test_an_answer_to_nothing_that_was_asked_is_ignored() -> None:
    story = Story("b")
    for said in (Here(5, b"else", 0), NotHere(5)):
        assert story.prober.received(0.0, STRANGE, said, DIGEST, 0) == []


# -- answering -------------------------------------------------------------------------------------------------------


def test_a_probe_is_answered_and_a_different_digest_compared() -> None:
    story = Story("b")
    same = story.prober.received(0.0, STRANGE, Probe(7, "a", "b", DIGEST), DIGEST, 42)
    assert same == [Send(STRANGE, Here(7, DIGEST, 42), "b")]
    other = story.prober.received(0.0, STRANGE, Probe(7, "a", "b", b"else"), DIGEST, 42)
    assert other[1:] == [Compare(("b", 7441), "b", b"else")]


def test_a_probe_for_whoever_was_here_before_is_not_answered() -> None:
    assert Story("b").prober.received(0.0, STRANGE, Probe(7, "previous", "b", DIGEST), DIGEST, 0) == []


def test_a_stranger_and_a_dead_member_that_ask_are_answered_and_got_to_know() -> None:
    story = Story("b")
    story.membership.heard_gone(0.0, Gone("b", 0, False))
    for sender in ("b", "stranger"):
        answered = story.prober.received(0.0, STRANGE, Probe(7, "a", sender, DIGEST), DIGEST, 0)
        assert answered == [Send(STRANGE, Here(7, DIGEST, 0), sender), Compare(STRANGE, sender, b"")]


def test_a_helper_asks_and_tells_what_it_heard_or_that_it_heard_nothing() -> None:
    story = Story("b", "c")
    (probe,) = story.prober.received(0.0, ("c", 7441), ProbeFor(9, "b", "b", 7441), DIGEST, 0)
    assert isinstance(probe, Send)
    assert isinstance(probe.said, Probe)
    assert (probe.address, probe.said.target) == (("b", 7441), "b")
    told = story.prober.received(0.1, ("b", 7441), Here(probe.said.number, DIGEST, 0), DIGEST, 0)
    assert told == [Send(("c", 7441), Here(9, b"", 0))]

    story.prober.received(1.0, ("c", 7441), ProbeFor(10, "b", "b", 7441), DIGEST, 0)
    story.now = 1.0
    story.run(RELAY_S)
    assert (1.0 + RELAY_S, Send(("c", 7441), NotHere(10))) in story.done


def test_help_has_a_bound() -> None:
    story = Story("b", "c")
    asked = [story.prober.received(0.0, STRANGE, ProbeFor(n, "b", "b", 7441), DIGEST, 0) for n in range(RELAYS_MAX + 5)]
    assert sum(bool(actions) for actions in asked) == RELAYS_MAX


# -- broken connections ----------------------------------------------------------------------------------------------


def test_a_broken_connection_and_a_refused_one_make_a_suspect_at_once() -> None:
    story = Story("b", "c", "d")
    send, call = story.prober.hurry(0.0, "b", DIGEST)
    assert isinstance(send, Send)
    assert isinstance(call, Call)
    assert call.node == "b"
    assert story.prober.hurry(0.0, "b", DIGEST) == []  # it is asked already
    (member,) = story.prober.refused(0.01, call.number)
    assert (member.id, member.state) == ("b", State.SUSPECT)
    assert story.prober.refused(0.02, call.number) == []


def test_who_answers_after_its_connection_broke_is_not_suspected() -> None:
    story = Story("b")
    _, call = story.prober.hurry(0.0, "b", DIGEST)
    assert isinstance(call, Call)
    story.prober.answered(0.2, call.number, DIGEST)
    story.run(10.0)
    assert story.changed == []


def test_so_many_are_hurried_at_once() -> None:
    nodes = [f"n{number}" for number in range(2 * HURRIED_MAX)]
    story = Story(*nodes)
    assert sum(bool(story.prober.hurry(0.0, node, DIGEST)) for node in nodes) == HURRIED_MAX
    assert story.prober.hurry(0.0, "nobody", DIGEST) == []


# -- local health ----------------------------------------------------------------------------------------------------


def test_a_node_that_hears_nobody_gets_slower_before_it_accuses_and_well_again_by_answers() -> None:
    story = Story("b", "c", "d", "e")
    story.dead, story.helpers_hear = {"b", "c", "d", "e"}, False
    story.run(6.0)
    assert story.prober.health > 2
    story.run(60.0)
    assert story.prober.health == HEALTH_MAX
    story = Story("b", "c", "d", "e")
    story.prober.health = 3
    story.run(20.0)
    assert story.prober.health == 0


def test_a_refuted_rumor_counts_against_this_node() -> None:
    story = Story("b")
    story.membership.refutations += 1
    story.prober.tick(0.0, DIGEST)
    assert story.prober.health == 1


@pytest.mark.parametrize("stall_s", [5.0, 60.0])
def test_a_stall_of_this_node_lets_nobody_die(stall_s: float) -> None:
    story = Story("b", "c", "d")
    story.run(10.3)
    for node in ("b", "c", "d"):
        story.prober.hurry(story.now, node, DIGEST)
    story.membership.heard_suspected(story.now, Suspected("b", 0, "a"))
    story.now += stall_s
    actions, changed = story.prober.tick(story.now, DIGEST)
    assert changed == []
    assert story.prober.health > 0
    assert story.membership.deadline() > story.now + SUSPICION_MIN_S - 1.0
    for action in actions:
        story.do(action)


# -- the dead --------------------------------------------------------------------------------------------------------


def test_the_dead_are_called_now_and_then_and_an_answer_is_compared() -> None:
    story = Story("b", "c", "d")
    for node in ("b", "c"):
        story.membership.heard_gone(0.0, Gone(node, 0, False))
    story.dead = {"b", "c"}
    story.run(40 * REVIVE_S)
    calls = Counter(node for _, node in story.asked(Probe) if node != "d")
    assert sum(calls.values()) == 40
    assert min(calls.values()) > 10
    assert len([action for _, action in story.done if isinstance(action, Call)]) == 4
    story.dead = {"b"}
    story.run(40 * REVIVE_S)
    assert Compare(("c", 7441), "c", b"") in [action for _, action in story.done]
    assert story.membership.all()[0].state is State.DEAD  # until it says itself that it is alive


def test_those_that_left_are_not_called() -> None:
    story = Story("b")
    story.membership.left(0.0, "b", "1")
    story.run(60.0)
    assert story.done == []


def test_an_answer_that_came_directly_says_how_long_the_way_is() -> None:
    story = Story("b")
    story.dead = {"b"}
    while not story.asked(Probe):
        story.run(0.1)
    at, probe = next((at, done) for at, done in story.done if isinstance(done, Send))
    assert isinstance(probe.said, Probe)
    heard = story.prober.received(at + 0.3, STRANGE, Here(probe.said.number, DIGEST, 0), DIGEST, 0)
    (timed,) = heard
    assert isinstance(timed, Timed)
    assert timed.node == "b"
    assert timed.round_trip_s == pytest.approx(0.3)


def test_an_answer_through_a_helper_does_not() -> None:
    story = Story("b", "c")
    story.dead = {"b", "c"}
    story.run(PERIOD_S)
    number = next(d.said.number for _, d in story.done if isinstance(d, Send) and isinstance(d.said, ProbeFor))
    assert story.prober.received(story.now, STRANGE, Here(number, b"", 0), DIGEST, 0) == []
