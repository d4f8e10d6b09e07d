"""What is cheaper now, to fetch or to encode?"""

from __future__ import annotations

import math

import pytest
from edgecache.node.cost import (
    ASK_SHARE,
    COPY_SHARE,
    ENCODE_UNKNOWN_S,
    FETCHES_KEPT_S,
    FETCHES_MIN,
    HEDGE_MAX_S,
    HEDGE_MIN_S,
    HEDGE_UNKNOWN_S,
    LEASE_LATE_SHARE,
    PATIENCE_MAX_S,
    PATIENCE_UNKNOWN_S,
    PEERS_MAX,
    Costs,
    Prices,
    Recent,
)
from hypothesis import given
from hypothesis import strategies as st

PAYLOAD = 150_000


def costs(encode_s: float | None = 0.06, prices: Prices | None = None) -> Costs:
    """Of a node that has encoded for a while, or (None) never."""
    made = Costs(prices or Prices())
    for _ in range(10 if encode_s is not None else 0):
        made.encoded(encode_s or 0.0, 0)
    return made


# -- quantiles --------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), max_size=200), st.floats(0, 1))
def test_quantiles_are_those_of_the_last_observations(values: list[float], share: float) -> None:
    recent = Recent(50)
    for value in values:
        recent.add(value)
    last = sorted(values[-50:])
    assert len(recent) == len(last)
    assert recent.quantile(share) == (last[min(int(share * len(last)), len(last) - 1)] if last else None)


# -- what is known of a peer ------------------------------------------------------------------------------------------


def test_round_trip_and_bandwidth_of_a_peer_are_told_apart() -> None:
    known = costs()
    for now in range(30):
        known.answered(now, "a", 0.010)
        known.answered(now, "a", 0.010 + PAYLOAD / 5e6, PAYLOAD)
    assert known.round_trip_s("a") == pytest.approx(0.010)
    assert known.bytes_per_s("a") == pytest.approx(5e6, rel=0.01)
    assert known.fetch_s("a") == pytest.approx(0.010 + PAYLOAD / 5e6, rel=0.01)


def test_one_slow_answer_does_not_make_a_round_trip_slow() -> None:
    known = costs()
    for now in range(20):
        known.answered(now, "a", 0.5 if now == 10 else 0.001)
    assert known.round_trip_s("a") == pytest.approx(0.001)


def test_failures_count_and_are_forgiven_with_time_and_by_answers() -> None:
    known = costs()
    for _ in range(8):
        known.failed(0.0, "a", 0.1)
    failing = known.failure_share(0.0, "a")
    assert failing == pytest.approx(0.9, abs=0.01)
    assert known.failure_share(30.0, "a") == pytest.approx(failing / 2)
    known.answered(0.0, "a", 0.001)
    assert known.failure_share(0.0, "a") < failing


def test_what_is_known_of_peers_has_a_bound() -> None:
    known = costs()
    for number in range(2 * PEERS_MAX):
        known.failed(0.0, f"{number}", 0.1)
    assert known.failure_share(0.0, "0") == 0.0
    assert known.failure_share(0.0, f"{2 * PEERS_MAX - 1}") > 0.0
    assert len(known._peers) == PEERS_MAX


# -- what is known of encoding ----------------------------------------------------------------------------------------


def test_the_first_encode_read_the_model_and_says_nothing_of_the_next() -> None:
    known = Costs()
    known.encoded(8.0, 0)
    assert known.encode_s(0) is None
    known.encoded(0.05, 0)
    assert known.encode_s(0) == 0.05


def test_who_comes_behind_others_is_expected_to_wait_for_them() -> None:
    known = costs(0.06)
    assert known.encode_s(0) == pytest.approx(0.06)
    assert known.encode_s(3) == pytest.approx(0.24)
    for _ in range(50):  # in a batch, an image takes a third
        known.encoded(0.08, 3)
    assert known.encode_s(3) == pytest.approx(0.08)
    assert known.encode_s(0) == pytest.approx(0.06)


# -- choices ----------------------------------------------------------------------------------------------------------


@given(st.floats(0.0005, 20.0), st.integers(0, 20))
def test_all_waiting_on_others_and_the_encode_stay_within_the_promise(encode_s: float, ahead: int) -> None:
    known = costs(encode_s)
    expected_s = known.encode_s(ahead)
    assert expected_s is not None
    before_s = known.patience_s(ahead)
    after_s = known.copy_wait_s(ahead)
    assert before_s <= min(ASK_SHARE * expected_s, PATIENCE_MAX_S) * (1 + 1e-9)
    assert after_s <= min(COPY_SHARE * expected_s, PATIENCE_MAX_S) * (1 + 1e-9)


def test_patience_is_that_of_the_quicker_encodes() -> None:
    known = Costs()
    for number in range(64):
        known.encoded(1.0 if number % 2 else 0.01, 0)  # large and small images in turn
    assert known.patience_s(0) == pytest.approx(ASK_SHARE * 0.01)


def test_before_the_first_encode_patience_is_short_and_the_wait_for_another_encoder_long() -> None:
    known = costs(None)
    assert known.patience_s(0) == PATIENCE_UNKNOWN_S
    assert known.lease_wait_s(0.5, 1.0, "a", 0) == pytest.approx(ENCODE_UNKNOWN_S - 0.5)
    assert known.lease_wait_s(0.5, 2.0, "a", 0) == 0.0


def test_another_encode_is_waited_for_where_it_comes_within_the_promise() -> None:
    known = costs(0.1)
    fetches_s = 2 * known.fetch_s("a")
    assert known.lease_wait_s(0.001, 0.1, "a", 0) == pytest.approx(0.1 + fetches_s + LEASE_LATE_SHARE * 0.1)
    assert known.lease_wait_s(0.05, 0.03, "a", 0) == pytest.approx(0.03 + fetches_s + LEASE_LATE_SHARE * 0.1)
    assert known.lease_wait_s(0.001, 0.13, "a", 0) == 0.0
    assert known.lease_wait_s(0.05, 0.1, "a", 0) == 0.0
    for now in range(40):
        known.answered(now, "slow", 0.3)
    assert known.lease_wait_s(0.001, 0.1, "slow", 0) == 0.0


def test_a_peer_that_takes_longer_than_an_encode_is_not_asked_and_others_are_asked_by_cost() -> None:
    known = costs(0.06)
    for now in range(40):
        known.answered(now, "far", 0.008)
        known.answered(now, "near", 0.001)
        known.answered(now, "slow", 0.3)
        known.answered(now, "thin", 0.001)
        known.answered(now, "thin", 0.3, PAYLOAD)
    assert known.worth_asking(40, ["slow", "far", "thin", "near"], 0) == ["near", "far"]
    assert known.worth_asking(40, ["slow", "far", "thin", "near"], 9) == ["near", "far"]
    assert known.worth_asking(40, ["slow", "far", "thin", "near"], 40) == ["near", "far", "thin", "slow"]


def test_a_put_that_fails_says_nothing_of_how_long_features_take() -> None:
    known = costs(0.06)
    for now in range(3):
        known.failed(now, "full", 0.5, is_fetch=False)
        known.failed(now, "slow", 0.5)
    assert known.worth_asking(90, ["full", "slow"], 0) == ["full"]


def test_of_equal_peers_the_first_named_is_asked_first() -> None:
    assert costs().worth_asking(0, ["c", "a", "b"], 0) == ["c", "a", "b"]


def test_a_device_that_never_encoded_asks_everybody() -> None:
    known = costs(None)
    for now in range(40):
        known.answered(now, "slow", 0.3)
    assert known.worth_asking(40, ["slow"], 0) == ["slow"]


def test_a_peer_that_fails_again_and_again_is_left_alone_for_a_while() -> None:
    known = costs(0.06)
    asked = 0
    while known.worth_asking(0, ["a"], 0):
        known.failed(0, "a", 0.1)
        asked += 1
        assert asked < 20
    assert asked == FETCHES_MIN  # a lost packet or two is no reason
    assert known.worth_asking(60, ["a"], 0) == []
    assert known.worth_asking(FETCHES_KEPT_S + 1, ["a"], 0) == ["a"]
    known.is_back("a")
    assert known.worth_asking(60, ["a"], 0) == ["a"]


def test_a_peer_is_asked_where_its_features_come_before_an_encode_would_begin() -> None:
    known = costs(0.06)
    for now in range(FETCHES_MIN):
        assert known.worth_asking(now, ["near", "far"], 0) == ["near", "far"]  # nothing is known yet
        known.answered(now, "near", 0.008, PAYLOAD)
        known.answered(now, "far", 0.015, PAYLOAD)
    assert known.hold_s(FETCHES_MIN, "near", 0) == 0.008  # steady, so that it pays to wait for it
    assert known.hold_s(FETCHES_MIN, "far", 0) == known.patience_s(0)  # more than the promise allows
    assert known.worth_asking(FETCHES_MIN, ["near", "far"], 0) == ["near"]
    assert known.worth_asking(FETCHES_MIN, ["near", "far"], 1) == ["near", "far"]  # behind another image


def test_who_is_not_steady_is_not_waited_for_longer_than_others() -> None:
    known = costs(0.06)
    for now in range(40):
        known.answered(now, "moody", 0.5 if now % 10 == 0 else 0.004, PAYLOAD)
        known.answered(now, "steady", 0.008, PAYLOAD)
    assert known.hold_s(40, "moody", 0) == known.patience_s(0)
    assert known.worth_asking(40, ["moody"], 0) == ["moody"]
    assert known.hold_s(40, "steady", 0) == 0.008
    known.failed(40, "steady", 0.06)
    assert known.hold_s(40, "steady", 0) == known.patience_s(0)


def test_energy_weighs_as_much_as_it_is_priced() -> None:
    radio = Prices(seconds_per_joule=1.0, joules_per_byte=1e-6, joules_per_encode=0.01)
    assert costs(0.06, radio).worth_asking(0, ["a"], 0) == []  # 0.15 J to receive, 0.01 to encode
    encoder = Prices(seconds_per_joule=1.0, joules_per_byte=1e-9, joules_per_encode=5.0)
    known = costs(0.06, encoder)
    for now in range(40):
        known.answered(now, "slow", 0.3)
    assert known.worth_asking(40, ["slow"], 0) == ["slow"]  # slower by 0.24 s, and saves 5 J
    assert known.patience_s(0) == costs(0.06).patience_s(0)  # the promise of 1.2 is not for sale


def test_the_next_holder_is_asked_after_what_a_peer_usually_takes() -> None:
    known = costs()
    assert known.hedge_after_s("new") == HEDGE_UNKNOWN_S
    for now in range(40):
        known.answered(now, "near", 0.0005)
        known.answered(now, "far", 0.1)
        known.answered(now, "moon", 2.5)
    assert known.hedge_after_s("near") == HEDGE_MIN_S
    assert 0.1 < known.hedge_after_s("far") < 0.11
    assert known.hedge_after_s("moon") == HEDGE_MAX_S


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100), st.integers(0, 10**7)), max_size=50))
def test_no_observation_makes_an_estimate_senseless(seen: list[tuple[str, float, int]]) -> None:
    known = Costs()
    for now, (node, seconds, nbytes) in enumerate(seen):
        if seconds > 90:
            known.failed(now, node, 0.1)
        else:
            known.answered(now, node, seconds, nbytes)
        known.encoded(seconds, nbytes % 5)
        for peer in "abc":
            assert 0.0 <= known.fetch_s(peer) < math.inf
            assert 0.0 <= known.failure_share(now, peer) < 1.0
            assert HEDGE_MIN_S <= known.hedge_after_s(peer) <= HEDGE_MAX_S
        assert 0.0 <= known.patience_s(0) <= PATIENCE_MAX_S
