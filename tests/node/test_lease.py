"""Who may encode a missing key, and until when."""

from __future__ import annotations

import pytest
from edgecache.node.lease import LEASE_FACTOR, LEASE_S_MAX, LEASE_S_MIN, Granted, Leased, Leases
from hypothesis import given
from hypothesis import strategies as st

KEY, OTHER = b"k" * 64, b"o" * 64


def test_the_first_is_granted_the_lease_and_the_others_hear_when_the_features_are_expected() -> None:
    leases = Leases()
    assert leases.claim(0.0, KEY, "a", 0.1) == Granted(LEASE_FACTOR * 0.1)
    assert leases.claim(0.0, KEY, "b", 0.1) == Leased(0.1)
    waiting = leases.claim(0.04, KEY, "c", 0.1)
    assert isinstance(waiting, Leased)
    assert waiting.expected_s == pytest.approx(0.06)
    assert isinstance(leases.claim(0.0, OTHER, "b", 0.1), Granted)


def test_a_lease_ends_at_its_time_and_the_next_to_ask_has_it() -> None:
    leases = Leases()
    leases.claim(0.0, KEY, "a", 0.1)
    assert isinstance(leases.claim(0.19, KEY, "b", 0.1), Leased)
    assert isinstance(leases.claim(0.2, KEY, "b", 0.1), Granted)
    assert isinstance(leases.claim(0.2, KEY, "a", 0.1), Leased)


def test_of_a_holder_that_is_late_as_much_more_is_expected() -> None:
    leases = Leases()
    leases.claim(0.0, KEY, "a", 0.1)
    held = leases.held(0.13, KEY)
    assert held is not None
    assert held.expected_s == pytest.approx(0.03)
    held = leases.held(0.19, KEY)
    assert held is not None
    assert held.expected_s == pytest.approx(0.01)  # no longer than the lease


def test_a_lease_dies_with_its_holder_and_only_with_it() -> None:
    leases = Leases()
    leases.claim(0.0, KEY, "a", 0.1)
    leases.claim(0.0, OTHER, "b", 0.1)
    assert leases.gone("c") == []
    assert leases.gone("a") == [KEY]
    assert isinstance(leases.claim(0.0, KEY, "c", 0.1), Granted)
    assert leases.held(0.0, OTHER) is not None


def test_a_lease_is_given_back_by_its_holder_alone() -> None:
    leases = Leases()
    leases.claim(0.0, KEY, "a", 0.1)
    assert not leases.release(KEY, "b")
    assert leases.release(KEY, "a")
    assert not leases.release(KEY, "a")
    assert isinstance(leases.claim(0.0, KEY, "b", 0.1), Granted)


def test_made_features_end_the_lease() -> None:
    leases = Leases()
    assert not leases.made(KEY)
    leases.claim(0.0, KEY, "a", 0.1)
    assert leases.made(KEY)
    assert leases.held(0.0, KEY) is None


def test_a_holder_that_asks_again_keeps_its_lease() -> None:
    leases = Leases()
    leases.claim(0.0, KEY, "a", 0.1)
    assert leases.claim(0.15, KEY, "a", 0.1) == Granted(LEASE_FACTOR * 0.1)
    assert isinstance(leases.claim(0.3, KEY, "b", 0.1), Leased)


def test_no_claim_makes_a_lease_longer_or_shorter_than_leases_may_be() -> None:
    leases = Leases()
    assert leases.claim(0.0, KEY, "a", 1e9) == Granted(LEASE_S_MAX)
    assert leases.claim(0.0, KEY, "b", 1.0) == Leased(LEASE_S_MAX)
    assert leases.claim(0.0, OTHER, "a", 0.0) == Granted(LEASE_S_MIN)


def test_a_full_table_forgets_what_has_ended_and_then_grants_without_remembering() -> None:
    leases = Leases(leases_max=2)
    leases.claim(0.0, b"1", "a", 0.1)
    leases.claim(0.1, b"2", "a", 0.1)
    assert leases.claim(0.1, b"3", "a", 0.1) == Granted(0.0)
    assert len(leases) == 2
    assert leases.claim(0.2, b"3", "a", 0.1) == Granted(LEASE_FACTOR * 0.1)
    assert len(leases) == 2


_Steps = st.lists(
    st.tuples(st.sampled_from(["claim", "made", "gone", "wait"]), st.sampled_from("kl"), st.sampled_from("abc")),
    max_size=60,
)


@given(_Steps)
def test_at_most_one_node_has_a_lease_at_any_time(steps: list[tuple[str, str, str]]) -> None:
    leases, now = Leases(), 0.0
    held: dict[bytes, tuple[str, float]] = {}  # the model: who, until when
    for step, key_text, node in steps:
        key = key_text.encode()
        if step == "claim":
            answer = leases.claim(now, key, node, 0.1)
            holder, until = held.get(key, (node, now))
            assert isinstance(answer, Granted) == (holder == node or now >= until)
            if isinstance(answer, Granted):
                held[key] = (node, now + answer.lease_s)
        elif step == "made":
            assert leases.made(key) == (held.pop(key, None) is not None)
        elif step == "gone":
            freed = [key for key, (holder, _) in held.items() if holder == node]
            assert sorted(leases.gone(node)) == sorted(freed)
            for key in freed:
                del held[key]
        else:
            now += 0.05
