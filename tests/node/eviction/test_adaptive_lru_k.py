"""node/eviction/adaptive_lru_k.py: K follows the workload."""

from __future__ import annotations

import itertools
import random

from edgecache.node.eviction.adaptive_lru_k import AdaptiveLRUK
from edgecache.node.eviction.lru import LRU
from edgecache.node.eviction.lru_k import LRUK
from edgecache.node.eviction.policy import EvictionPolicy
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
