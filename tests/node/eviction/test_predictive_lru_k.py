"""node/eviction/predictive_lru_k.py: what can be learnt is learnt, and where nothing can, little is lost."""

from __future__ import annotations

import random

import numpy as np
from edgecache.node.eviction.forecast_lru_k import HISTORY_PER_ENTRY, ForecastLRUK
from edgecache.node.eviction.lru import LRU
from edgecache.node.eviction.policy import EvictionPolicy
from edgecache.node.eviction.predictive_lru_k import PredictiveLRUK
from edgecache.node.eviction.s3_fifo import S3FIFO
from edgecache.node.eviction.shadow import Shadow
from edgecache.node.eviction.use_forecast import UseForecast

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
    doomed = policy._keys[policy._victims[-1]]
    assert doomed is not None
    policy.hit(doomed)
    assert doomed not in [policy.evict() for _ in policy._victims[:-1]]


def test_the_history_is_bounded() -> None:
    policy: ForecastLRUK[int] = ForecastLRUK()
    hits(policy, list(range(5000)))
    assert len(policy._slots) <= (1 + HISTORY_PER_ENTRY) * CAPACITY
    policy.check()


def test_a_forecast_tells_apart_what_it_has_seen_apart() -> None:
    forecast = UseForecast()
    count = 64
    gaps = np.array([10, 5000] * (count // 2))
    none = np.zeros(count, np.int64)
    rates = np.ones(count)
    features = forecast.features(np.full(count, 20), (gaps, none, none), np.full(count, 2), rates, turnover=1000)
    for _ in range(100):
        forecast.learn(features, gaps == 10)
    scores = forecast.score(features)
    assert scores[gaps == 10].min() > 1
    assert scores[gaps == 5000].max() < -1
