"""node/eviction/predictive_lru_k.py: what can be learnt is learnt, and where nothing can, little is lost."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from edgecache.node.eviction.forecast_lru_k import ForecastLRUK
from edgecache.node.eviction.frequency_sketch import key_digest
from edgecache.node.eviction.lru import LRU
from edgecache.node.eviction.policy import EvictionPolicy, Facts
from edgecache.node.eviction.predictive_lru_k import FORECAST, QUEUES, RECENCY, PredictiveLRUK
from edgecache.node.eviction.s3_fifo import S3FIFO
from edgecache.node.eviction.scene_change import WINDOW, SceneChange
from edgecache.node.eviction.shadow import Shadow
from edgecache.node.eviction.slots import TIME_MAX
from edgecache.node.eviction.use_forecast import UseForecast, quarter_octave

CAPACITY = 200


def hits(policy: EvictionPolicy[int], uses: list[int]) -> float:
    store = Shadow(policy, CAPACITY)
    for key in uses:
        store.use(key, 1)
    return store.hits


def twice_and_never_again(pairs: int = 15_000) -> list[int]:
    """Every scene is seen twice, 50 scenes apart, and never again: after its second use it is only in the way."""
    lag = 300
    return [key for now in range(pairs) for key in ((now, now - lag) if now >= lag else (now,))]


def test_it_learns_that_what_came_twice_is_over() -> None:
    uses = twice_and_never_again()
    assert hits(LRU(), uses) == 0
    assert hits(S3FIFO(CAPACITY), uses) < 0.1 * len(uses)
    assert hits(PredictiveLRUK(CAPACITY), uses) > 0.12 * len(uses)


def test_it_is_no_worse_than_lru_where_only_recency_counts() -> None:
    rng = random.Random(1)
    uses = [now // 3 - int(rng.expovariate(1 / 120)) for now in range(30_000)]
    assert hits(PredictiveLRUK(CAPACITY), uses) > 0.98 * hits(LRU(), uses)


def test_it_is_little_worse_than_the_best_expert_where_there_is_nothing_to_learn() -> None:
    rng = random.Random(2)
    uses = [rng.randrange(1000) for _ in range(30_000)]
    assert hits(PredictiveLRUK(CAPACITY), uses) > 0.95 * hits(LRU(), uses)


def test_what_is_used_after_the_ranking_is_spared() -> None:
    policy: ForecastLRUK[int] = ForecastLRUK()
    for key in range(CAPACITY):
        policy.admit(key)
    policy.evict()
    doomed = policy._slots.keys[policy._victims[-1]]
    assert doomed is not None
    policy.hit(doomed)
    assert doomed not in [policy.evict() for _ in policy._victims[:-1]]


def test_an_evicted_entry_comes_back_with_its_history() -> None:
    policy: ForecastLRUK[int] = ForecastLRUK()
    for key in range(CAPACITY):
        policy.admit(key)
    for _ in range(3):
        policy.hit(7)
    while 7 in policy:
        policy.evict()
    policy.admit(7)
    assert policy._counts[policy._slots.numbers[7]] == 5


def test_it_learns_from_what_happened_to_those_it_evicted() -> None:
    policy: ForecastLRUK[int] = ForecastLRUK()
    for key in range(3000):
        policy.admit(key)
        if len(policy) > CAPACITY:
            policy.evict()
    never_again = policy._forecast.score(policy._bins(policy._some())).mean()
    for key in range(3000, 9000):
        for use in (key, key - 300):
            if use in policy:
                policy.hit(use)
                continue
            policy.admit(use)
            if len(policy) > CAPACITY:
                policy.evict()
    assert policy._forecast.score(policy._bins(policy._some())).mean() > never_again


def test_it_outlives_its_clock() -> None:
    rng = random.Random(5)
    uses = [min(int(rng.paretovariate(0.5)), 2000) for _ in range(20_000)]
    early: PredictiveLRUK[int] = PredictiveLRUK(CAPACITY)
    late: PredictiveLRUK[int] = PredictiveLRUK(CAPACITY)
    late._now = late._turnover_at = TIME_MAX - 10_000
    assert abs(hits(late, uses) - hits(early, uses)) < 0.01 * len(uses)
    late.check()
    assert late._now < TIME_MAX - 10_000


@pytest.mark.parametrize("leader", [FORECAST, RECENCY, QUEUES])
def test_any_leader_may_take_over_at_any_time(leader: int) -> None:
    policy: PredictiveLRUK[int] = PredictiveLRUK(CAPACITY)
    rng = random.Random(leader)
    store = Shadow(policy, CAPACITY)
    for now in range(10_000):
        if now % 500 == 0:
            policy._leader = (leader + now // 500) % 3
        store.use(min(int(rng.paretovariate(0.5)), 2000), 1)
        if now % 1000 == 0:
            policy.check()
    assert store.hits > 3000


def test_what_goes_next_is_worth_least_and_what_was_used_last_most() -> None:
    policy: PredictiveLRUK[int] = PredictiveLRUK(CAPACITY)
    for key in range(CAPACITY):
        policy.admit(key)
    policy.evict()
    policy.hit(50)
    order = policy.by_worth()
    assert sorted(order) == [key for key in range(CAPACITY) if key in policy]
    assert order[0] == 50
    assert policy.evict() == order[-1]


def test_of_entries_alike_the_large_go_first() -> None:
    policy: ForecastLRUK[int] = ForecastLRUK()
    for key in range(CAPACITY):
        policy.admit(key, 19_000 if key % 2 else 151_000)
    assert all(policy.evict() % 2 == 0 for _ in range(CAPACITY // 10))


def lead(policy: PredictiveLRUK[int], leader: int) -> None:
    policy._leader, policy._turnover_at = leader, 1 << 40


def test_led_by_recency_it_is_lru() -> None:
    rng = random.Random(6)
    uses = [min(int(rng.paretovariate(0.5)), 2000) for _ in range(10_000)]
    policy: PredictiveLRUK[int] = PredictiveLRUK(CAPACITY)
    lead(policy, RECENCY)
    assert hits(policy, uses) == hits(LRU(), uses)


def test_led_by_the_queues_it_is_nearly_s3_fifo() -> None:
    rng = random.Random(7)
    uses = [min(int(rng.paretovariate(0.5)), 2000) for _ in range(20_000)]
    policy: PredictiveLRUK[int] = PredictiveLRUK(CAPACITY)
    lead(policy, QUEUES)
    assert abs(hits(policy, uses) / hits(S3FIFO(CAPACITY), uses) - 1) < 0.03


def test_the_shadows_hear_a_sample_that_grows_no_larger_with_the_store() -> None:
    policy: PredictiveLRUK[int] = PredictiveLRUK(20_000)
    for key in range(50_000):
        if len(policy) == 20_000:
            policy.evict()
        policy.admit(key)
    policy.check()
    assert all(800 < len(shadow) < 2400 for shadow in policy._shadows.shadows)


def test_a_forecast_tells_apart_what_it_has_seen_apart() -> None:
    forecast = UseForecast()
    count = 64
    gaps = np.array([10, 5000] * (count // 2))
    none = np.zeros(count, np.uint8)
    rates = np.ones(count)
    codes = np.array([quarter_octave(gap) for gap in gaps.tolist()], np.uint8)
    bins = forecast.bins(np.full(count, 20), (codes, none, none), np.full(count, 2, np.uint8), rates, turnover=1000)
    for _ in range(100):
        forecast.learn(bins, gaps == 10)
    scores = forecast.score(bins)
    assert scores[gaps == 10].min() > 1
    assert scores[gaps == 5000].max() < -1


def stream_of(kind: int) -> Facts:
    return Facts(stream=kind)


def cost_of(kind: int) -> Facts:
    return Facts(cost_ms=100.0 if kind else 3.0)


@pytest.mark.parametrize("told", [stream_of, cost_of])
def test_it_learns_from_facts_whose_entries_return(told: Callable[[int], Facts]) -> None:
    """Each third entry returns once, after more than a turnover; nothing but its facts tells it from the others."""
    lag = 189
    uses = [key for now in range(6000) for key in ((now, now - lag) if now % 3 == 0 and now > lag else (now,))]

    def hits_where(facts: Callable[[int], Facts]) -> float:
        store = Shadow(PredictiveLRUK[int](CAPACITY), CAPACITY)
        for key in uses:
            store.use(key, 1, facts(int(key % 3 == 0)))
        return store.hits

    assert hits_where(told) > 1.2 * hits_where(lambda kind: Facts())


def test_a_change_of_scene_is_noticed_and_a_steady_scene_is_none() -> None:
    rng = random.Random(8)
    scenes = SceneChange()
    steady = [key_digest(min(int(rng.paretovariate(0.8)), 500)) for _ in range(30 * WINDOW)]
    assert not any(scenes.used(digest) for digest in steady)
    others = [key_digest(1000 + min(int(rng.paretovariate(0.8)), 500)) for _ in range(3 * WINDOW)]
    assert [scenes.used(digest) for digest in others].count(True) == 1
    assert scenes.changes == 1
