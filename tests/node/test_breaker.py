"""The breaker, on time that the tests make up."""

from __future__ import annotations

import random

from edgecache.node.breaker import Breaker, BreakerState


def breaker(pause_max_s: float = 60.0) -> Breaker:
    return Breaker(random.Random(1), failures_max=3, pause_first_s=1.0, pause_max_s=pause_max_s)


def opened(at: float) -> Breaker:
    made = breaker()
    for _ in range(3):
        assert made.allows(at)
        made.failed(at)
    return made


def test_it_opens_after_three_failures_in_a_row_and_not_before() -> None:
    made = breaker()
    for outcome in (made.failed, made.failed):
        outcome(0.0)
        assert made.allows(0.0)
    made.failed(0.0)
    assert not made.allows(0.0)
    assert (made.state, made.times_opened) == (BreakerState.OPEN, 1)


def test_a_success_forgets_the_failures_before_it() -> None:
    made = breaker()
    for _ in range(10):
        made.failed(0.0)
        made.failed(0.0)
        made.succeeded()
    assert made.allows(0.0)


def test_one_caller_tries_when_the_pause_is_over() -> None:
    made = opened(at=10.0)
    assert not made.allows(10.7)
    assert made.would_allow(11.3)
    assert made.allows(11.3)
    assert not made.allows(11.3)
    assert not made.would_allow(11.3)
    made.succeeded()
    assert made.allows(11.3)
    assert made.allows(11.3)


def test_pauses_double_up_to_their_limit_while_trials_fail() -> None:
    made = Breaker(random.Random(1), failures_max=1, pause_first_s=1.0, pause_max_s=5.0)
    now, pauses = 0.0, []
    made.failed(now)
    for _ in range(5):
        pauses.append(made.deadline() - now)
        now = made.deadline()
        assert made.allows(now)
        made.failed(now)
    for pause, nominal in zip(pauses, (1, 2, 4, 5, 5), strict=True):
        assert 0.8 * nominal <= pause <= 1.2 * nominal


def test_after_a_success_the_next_pause_is_the_first_again() -> None:
    made = opened(at=0.0)
    now = made.deadline()
    assert made.allows(now)
    made.failed(now)  # 2 s now
    assert made.allows(made.deadline())
    made.succeeded()
    for _ in range(3):
        made.failed(100.0)
    assert 0.8 <= made.deadline() - 100.0 <= 1.2


def test_failures_of_calls_from_before_it_opened_do_not_lengthen_the_pause() -> None:
    made = opened(at=0.0)
    deadline = made.deadline()
    made.failed(0.5)
    made.failed(0.6)
    assert (made.deadline(), made.times_opened) == (deadline, 1)


def test_a_trial_whose_caller_went_away_is_left_to_the_next() -> None:
    made = opened(at=0.0)
    assert made.allows(2.0)
    made.gave_up(2.1)
    assert made.allows(2.1)
    made.failed(2.2)
    assert not made.allows(2.3)


def test_who_gives_up_while_it_is_closed_changes_nothing() -> None:
    made = breaker()
    made.failed(0.0)
    made.failed(0.0)
    made.gave_up(0.0)
    assert made.allows(0.0)
    made.failed(0.0)
    assert not made.allows(0.0)


def test_a_late_success_closes_an_open_breaker() -> None:
    made = opened(at=0.0)
    made.succeeded()
    assert made.allows(0.0)


def test_two_breakers_with_different_chance_do_not_try_at_the_same_time() -> None:
    deadlines = set()
    for seed in range(5):
        made = Breaker(random.Random(seed), failures_max=1)
        made.failed(0.0)
        deadlines.add(made.deadline())
    assert len(deadlines) == 5
