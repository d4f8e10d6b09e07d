"""What a policy costs: `python tests/bench/eviction.py [NAME...]`, beside cachetools and theine if installed.

100,000 entries, keys of 32 bytes, popularity by Zipf (.99) over a million keys. After a warm-up that fills the store:

- hit, admit, evict: each call is timed on its own. The median is that of the quietest 5,000 requests of 200,000, since
  other work on the machine slows all of them; `sum` adds the three up, with three times some 50 ns of the clock's own.
- mean: the processor time of a pass through all requests, so it has all that is put off and done once in a while.
- bytes: what tracemalloc sees after the run, for each entry held, the keys themselves left out.

`predictive-lru-k told` is that policy as a node has it: it hears of sizes, costs, streams and hours.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import math
import sys
import time
import tracemalloc
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
from edgecache.node.eviction.policies import POLICIES
from edgecache.node.eviction.policy import NO_FACTS, EvictionPolicy, Facts
from edgecache.node.eviction.predictive_lru_k import PredictiveLRUK

ENTRIES = 100_000
KEYS = 1_000_000
WARM_UP = 400_000
REQUESTS = 200_000
QUIET = 5_000
TOLD = "predictive-lru-k told"


def requests() -> list[bytes]:
    """Keys in the order they are asked for."""
    rng = np.random.default_rng(1)
    weights = 1.0 / np.arange(1, KEYS + 1) ** 0.99
    numbers = rng.choice(KEYS, WARM_UP + REQUESTS, p=weights / weights.sum())
    names = rng.bytes(32 * KEYS)
    keys = {number: names[32 * number : 32 * number + 32] for number in np.unique(numbers).tolist()}
    return [keys[number] for number in numbers.tolist()]


def measure(name: str, keys: list[bytes]) -> None:
    """Print the line of one of our policies."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    policy = made(name)
    for key in keys:
        use(policy, key)
    metadata = (tracemalloc.get_traced_memory()[0] - before) / len(policy)
    tracemalloc.stop()

    policy = warm(name, keys)
    medians = {"hit": math.inf, "admit": math.inf, "evict": math.inf}
    for first in range(WARM_UP, len(keys), QUIET):
        took = timed(policy, keys[first : first + QUIET])
        medians = {call: min(best, median(took[call] or [math.inf])) for call, best in medians.items()}

    policy = warm(name, keys)
    start = time.thread_time_ns()
    for key in keys[WARM_UP:]:
        use(policy, key)
    mean = (time.thread_time_ns() - start) / REQUESTS
    show(name, *medians.values(), sum(medians.values()), mean, metadata)
    if isinstance(policy, PredictiveLRUK):
        tell_of_learning(warm(name, keys), keys[WARM_UP:])


def tell_of_learning(policy: EvictionPolicy[bytes], keys: list[bytes]) -> None:
    """Of the mean, what learning and ranking take, which is done on the event loop."""
    took: list[int] = []
    study = policy._study  # type: ignore[attr-defined]

    def timed_study() -> None:
        start = time.thread_time_ns()
        study()
        took.append(time.thread_time_ns() - start)

    policy._study = timed_study  # type: ignore[attr-defined]
    for key in keys:
        use(policy, key)
    times = ", ".join(f"{np.percentile(took, share) / 1e6:.2f} ms" for share in (50, 99))
    print(
        f"  learning and ranking: {len(took)} times in {len(keys):,} requests, median and 99 % {times}; "
        f"{sum(took) / len(keys):.0f} ns of each request's mean",
        flush=True,
    )


class Told(PredictiveLRUK[bytes]):
    """What a key's entry is like, the key says."""

    FACTS = tuple(Facts(cost_ms=1 + code % 50, stream=code % 8, hour=code // 11) for code in range(256))

    def admit(self, key: bytes, size: int = 1, facts: Facts = NO_FACTS) -> None:
        super().admit(key, 1 + key[0] % 8, self.FACTS[key[1]])


def made(name: str) -> EvictionPolicy[bytes]:
    """The policy of that name for so many entries."""
    return Told(ENTRIES) if name == TOLD else POLICIES[name](ENTRIES)


def warm(name: str, keys: list[bytes]) -> EvictionPolicy[bytes]:
    """A full store that has seen some of it."""
    policy = made(name)
    for key in keys[:WARM_UP]:
        use(policy, key)
    return policy


def timed(policy: EvictionPolicy[bytes], keys: list[bytes]) -> dict[str, list[int]]:
    """Nanoseconds of each call."""
    took: dict[str, list[int]] = {"hit": [], "admit": [], "evict": []}
    clock = time.perf_counter_ns
    for key in keys:
        if key in policy:
            start = clock()
            policy.hit(key)
            took["hit"].append(clock() - start)
            continue
        if len(policy) >= ENTRIES:
            start = clock()
            policy.evict()
            took["evict"].append(clock() - start)
        start = clock()
        policy.admit(key)
        took["admit"].append(clock() - start)
    return took


def use(policy: EvictionPolicy[bytes], key: bytes) -> None:
    if key in policy:
        policy.hit(key)
        return
    if len(policy) >= ENTRIES:
        policy.evict()
    policy.admit(key)


def measure_cache(name: str, cache: Any, keys: list[bytes]) -> None:
    """Print the line of somebody's cache: look-up and store in one, so only the mean of a request."""
    for key in keys[:WARM_UP]:
        if cache.get(key) is None:
            cache[key] = True
    start = time.thread_time_ns()
    for key in keys[WARM_UP:]:
        if cache.get(key) is None:
            cache[key] = True
    show(name, *4 * [None], (time.thread_time_ns() - start) / REQUESTS, None)


def others() -> Iterator[tuple[str, Any]]:
    """The caches of other people that are installed."""
    with contextlib.suppress(ImportError):
        cachetools = importlib.import_module("cachetools")
        yield "cachetools LRU", cachetools.LRUCache(ENTRIES)
        yield "cachetools LFU", cachetools.LFUCache(ENTRIES)
    with contextlib.suppress(ImportError):
        yield "theine", _Theine(importlib.import_module("theine"))


class _Theine:
    def __init__(self, theine: Any) -> None:
        self.get = (cache := theine.Cache(ENTRIES)).get
        self._cache = cache

    def __setitem__(self, key: bytes, value: bool) -> None:
        self._cache.set(key, value)


def show(name: str, *figures: float | None) -> None:
    print(
        "  ".join([f"{name:22}", *("       -" if value is None else f"{value:8.0f}" for value in figures)]), flush=True
    )


def main() -> None:
    keys = requests()
    print("  ".join([f"{'ns':22}", *map("{:>8}".format, ["hit", "admit", "evict", "sum", "mean", "bytes"])]))
    for name in sys.argv[1:] or (*POLICIES, TOLD):
        measure(name, keys)
    for name, cache in others():
        measure_cache(name, cache, keys)


if __name__ == "__main__":
    main()
