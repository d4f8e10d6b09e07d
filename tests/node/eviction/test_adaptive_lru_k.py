"""node/eviction/adaptive_lru_k.py: K follows the workload."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from edgecache.node.eviction import importance
from edgecache.node.eviction.adaptive_lru_k import AdaptiveLRUK
from edgecache.node.eviction.lru import LRU
from edgecache.node.eviction.lru_k import LRUK
from edgecache.node.eviction.policy import EvictionPolicy, Facts
from edgecache.node.eviction.shadow import Shadow

CAPACITY = 100


def hits(policy: EvictionPolicy[int], uses: list[int]) -> float:
    store = Shadow(policy, CAPACITY)
    for key in uses:
        store.use(key, 1)
    return store.hits


def drifting(seed: int) -> list[int]:
    """What was used lately is used again; what was used often is not: the scene moves on."""
    rng = random.Random(seed)
    return [now // 3 - int(rng.expovariate(1 / 60)) for now in range(10_000)]


def scanned(seed: int) -> list[int]:
    """A few popular entries, and between their uses a scan that never returns."""
    rng, once = random.Random(seed), itertools.count(1_000_000)
    return [rng.randrange(120) if rng.random() < 0.3 else next(once) for _ in range(10_000)]


def test_k_falls_where_only_recency_counts_and_rises_where_scans_pass() -> None:
    policy: AdaptiveLRUK[int] = AdaptiveLRUK(CAPACITY)
    store = Shadow(policy, CAPACITY)
    for key in drifting(1):
        store.use(key, 1)
    assert policy.k == 1
    for key in scanned(1):
        store.use(key, 1)
    assert policy.k > 1


def test_it_is_about_as_good_as_the_better_of_lru_and_lru_2() -> None:
    for uses in (drifting(2), scanned(2)):
        best = max(hits(LRU(), uses), hits(LRUK(2), uses))
        assert hits(AdaptiveLRUK(CAPACITY), uses) > 0.97 * best


def test_the_shadows_hear_a_sample_that_grows_no_larger_with_the_store() -> None:
    policy: AdaptiveLRUK[int] = AdaptiveLRUK(20_000)
    for key in range(40_000):
        if len(policy) == 20_000:
            policy.evict()
        policy.admit(key)
    policy.check()
    assert all(200 < len(shadow) < 600 for shadow in policy._shadows.shadows)


def told_of(facts: Callable[[int], Facts], uses: list[int]) -> tuple[AdaptiveLRUK[int], dict[int, int]]:
    """The policy after these uses, and how often each key was evicted."""
    policy: AdaptiveLRUK[int] = AdaptiveLRUK(CAPACITY)
    gone: dict[int, int] = {}
    for key in uses:
        if key in policy:
            policy.hit(key)
            continue
        if len(policy) == CAPACITY:
            victim = policy.evict()
            gone[victim] = gone.get(victim, 0) + 1
        policy.admit(key, 1, facts(key))
    policy.check()
    return policy, gone


def test_what_is_dear_to_make_stays_longer() -> None:
    rng = random.Random(3)
    uses = [rng.randrange(300) for _ in range(6000)]
    policy, gone = told_of(lambda key: Facts(cost_ms=100.0 if key % 2 else 5.0), uses)
    dear = sum(count for key, count in gone.items() if key % 2)
    cheap = sum(gone.values()) - dear
    assert dear < 0.8 * cheap
    assert policy.told()["importance"][2] > 0.2  # cost has earned more than it was given


def test_what_is_one_of_a_kind_stays_longer_than_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "LEARNING_RATE", 0.0)  # nothing is to be earned here
    rng = random.Random(4)
    sketches = [rng.getrandbits(64) for _ in range(300)]
    uses = [rng.randrange(300) for _ in range(6000)]
    _, gone = told_of(lambda key: Facts(sketch=sketches[key] if key % 2 else sketches[0]), uses)
    unique = sum(count for key, count in gone.items() if key % 2)
    assert unique < 0.9 * (sum(gone.values()) - unique)


def test_without_facts_importance_is_not_reckoned() -> None:
    policy, _ = told_of(lambda key: Facts(stream=1, hour=2), list(range(300)))
    assert policy.told().keys() == {"k", "regret"}


def test_with_facts_all_alike_hits_are_about_as_many_as_without() -> None:
    uses = scanned(5)
    alike = Facts(cost_ms=10.0)
    policy: AdaptiveLRUK[int] = AdaptiveLRUK(CAPACITY)
    store = Shadow(policy, CAPACITY)
    for key in uses:
        store.use(key, 1, alike)
    assert store.hits > 0.97 * hits(AdaptiveLRUK(CAPACITY), uses)
