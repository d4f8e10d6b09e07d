"""node/eviction/: what every policy must do, whatever it prefers."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from edgecache.node.eviction.belady import Belady
from edgecache.node.eviction.policies import POLICIES
from edgecache.node.eviction.policy import EvictionPolicy, Telling
from hypothesis import given
from hypothesis import strategies as st

CAPACITY = 20

Policy = EvictionPolicy[int]
Make = Callable[[int, Sequence[int]], Policy]


def online(name: str) -> Make:
    return lambda capacity, uses: POLICIES[name](capacity)


MAKERS = {name: online(name) for name in POLICIES} | {"belady": lambda capacity, uses: Belady(uses)}

every_policy = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())

USE = st.tuples(st.just("use"), st.integers(0, 40), st.integers(1, 8))
REMOVE = st.tuples(st.just("remove"), st.integers(0, 40), st.just(0))
EVICT = st.tuples(st.just("evict"), st.just(0), st.just(0))
RESIZE = st.tuples(st.just("resize"), st.just(0), st.integers(8, 60))
OPERATIONS = st.lists(st.one_of(USE, USE, USE, USE, REMOVE, EVICT, RESIZE), max_size=300)


class Store:
    """The plainest store of sized entries, and what a policy is checked against."""

    def __init__(self, policy: Policy, capacity: int) -> None:
        self.policy = policy
        self.capacity = capacity
        self.sizes: dict[int, int] = {}
        self.victims: list[int] = []
        self.hits = 0

    def use(self, key: int, size: int = 1) -> None:
        if key in self.sizes:
            self.hits += 1
            self.policy.hit(key)
            return
        while sum(self.sizes.values()) + size > self.capacity:
            self.evict()
        self.policy.admit(key, size)
        self.sizes[key] = size

    def evict(self) -> None:
        victim = self.policy.evict()
        del self.sizes[victim]  # a KeyError: what it named was not held
        self.victims.append(victim)

    def remove(self, key: int) -> None:
        self.policy.remove(key)
        del self.sizes[key]

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        self.policy.resize(capacity)
        self.policy.check()
        while sum(self.sizes.values()) > capacity:
            self.evict()


def uses_of(operations: list[tuple[str, int, int]]) -> list[int]:
    return [key for operation, key, _ in operations if operation == "use"]


def play(policy: Policy, keys: list[int], capacity: int = CAPACITY) -> Store:
    store = Store(policy, capacity)
    for key in keys:
        store.use(key)
    return store


def skewed(seed: int, requests: int = 4000, keys: int = 200) -> list[int]:
    rng = random.Random(seed)
    return [min(int(rng.paretovariate(0.6)), keys) for _ in range(requests)]


@every_policy
@given(operations=OPERATIONS)
def test_the_books_balance_whatever_is_done(make: Make, operations: list[tuple[str, int, int]]) -> None:
    store = Store(make(CAPACITY, uses_of(operations)), CAPACITY)
    for operation, key, size in operations:
        if operation == "use":
            store.use(key, size)
        elif operation == "remove" and key in store.sizes:
            store.remove(key)
        elif operation == "evict" and store.sizes:
            store.evict()
        elif operation == "resize":
            store.resize(size)
        store.policy.check()
        assert len(store.policy) == len(store.sizes)
        assert [other for other in range(41) if other in store.policy] == sorted(store.sizes)


@every_policy
def test_a_store_may_be_emptied_and_filled_again(make: Make) -> None:
    keys = [*range(CAPACITY), *range(CAPACITY)]
    store = play(make(CAPACITY, keys), keys[:CAPACITY])
    for _ in range(CAPACITY):
        store.evict()
    assert sorted(store.victims) == list(range(CAPACITY))
    assert len(store.policy) == 0
    for key in range(CAPACITY):
        store.use(key)
    store.policy.check()
    assert store.hits == 0
    assert len(store.policy) == CAPACITY


@every_policy
def test_a_store_with_room_for_one_entry_works(make: Make) -> None:
    keys = skewed(seed=1, requests=500)
    store = play(make(1, keys), keys, capacity=1)
    assert store.hits == sum(one == two for one, two in itertools.pairwise(keys))


@every_policy
def test_what_fits_is_never_evicted(make: Make) -> None:
    keys = [key % CAPACITY for key in skewed(seed=2)]
    assert play(make(CAPACITY, keys), keys).victims == []


@every_policy
def test_the_same_uses_give_the_same_victims(make: Make) -> None:
    keys = skewed(seed=3)
    assert play(make(CAPACITY, keys), keys).victims == play(make(CAPACITY, keys), keys).victims


@every_policy
def test_no_policy_passes_belady(make: Make) -> None:
    for seed in range(5):
        keys = skewed(seed)
        assert play(make(CAPACITY, keys), keys).hits <= play(Belady(keys), keys).hits


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("before", [CAPACITY // 4, 4 * CAPACITY])
def test_a_store_of_another_capacity_is_soon_as_if_it_had_always_been_so(name: str, before: int) -> None:
    first, rest = skewed(seed=4, requests=1000), skewed(seed=5, requests=4000)
    hits = []
    for capacity in (before, CAPACITY):
        store = play(POLICIES[name](capacity), first, capacity)
        store.resize(CAPACITY)
        store.hits = 0
        for key in rest:
            store.use(key)
        store.policy.check()
        hits.append(store.hits)
    assert abs(hits[0] - hits[1]) < 0.02 * len(rest)


VICTIMS_OF_BYTES = """
import hashlib
from edgecache.node.eviction.policies import POLICIES
for name in POLICIES:
    policy, held = POLICIES[name](20), set()
    for number in range(3000):
        key = hashlib.sha256(bytes([number * number % 251 % 97])).digest()
        if key in held:
            policy.hit(key)
            continue
        if len(held) == 20:
            held.remove(victim := policy.evict())
            print(name, victim.hex())
        policy.admit(key)
        held.add(key)
"""


def test_the_victims_do_not_depend_on_the_hash_seed() -> None:
    def victims(hash_seed: str) -> bytes:
        environment = {"PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            [sys.executable, "-c", VICTIMS_OF_BYTES], env=environment, capture_output=True, check=True
        ).stdout

    assert victims("1") == victims("2") != b""


def test_the_policies_that_learn_tell_how_that_goes() -> None:
    rng = random.Random(1)
    adaptive, predictive = POLICIES["adaptive-lru-k"](64), POLICIES["predictive-lru-k"](64)
    for policy in (adaptive, predictive):
        for _ in range(5000):
            key = min(int(rng.paretovariate(0.7)), 500)
            if key in policy:
                policy.hit(key)
                continue
            while len(policy) >= 64:
                policy.evict()
            policy.admit(key)
    assert isinstance(adaptive, Telling)
    assert isinstance(predictive, Telling)
    assert adaptive.told()["k"] in range(1, 6)
    told = predictive.told()
    assert told["leader"] in ("forecast", "lru", "s3-fifo")
    assert 0 <= told["regret"] < 0.05
