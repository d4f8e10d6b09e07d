"""Hit ratios of eviction policies on traces: the very classes that the node runs, and Belady beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ..node.eviction.belady import Belady
from ..node.eviction.policies import POLICIES
from ..node.eviction.policy import EvictionPolicy
from .traces import Trace

# How a policy is made from its capacity and every use that it will be told of; only Belady looks at those.
MAKERS: Mapping[str, Callable[[int, Sequence[int]], EvictionPolicy[int]]] = MappingProxyType(
    {name: (lambda capacity, uses, make=make: make(capacity)) for name, make in POLICIES.items()}
    | {"belady": lambda capacity, uses: Belady(uses)}
)


@dataclass(frozen=True)
class Result:
    """One policy on one trace at one size; `size` is in the unit of the trace's sizes."""

    trace: str
    policy: str
    size_fraction: float
    size: int
    requests: int
    unique: int
    hit_ratio: float
    ns_per_request: float


def compare(
    traces: Iterable[Trace], policies: Sequence[str], size_fractions: Sequence[float], begin: Callable[[str], None]
) -> Iterator[Result]:
    """Every policy on every trace at every share of what the trace asks for; `begin` hears what comes next."""
    for trace in traces:
        for fraction in size_fractions:
            capacity = max(1, round(fraction * sum(trace.sizes)))
            yield from _at_size(trace, policies, fraction, capacity, begin)


def compare_where(
    traces: Iterable[Trace], policies: Sequence[str], lru_ratio: float, begin: Callable[[str], None]
) -> Iterator[Result]:
    """Every policy on every trace at the size where LRU has this hit ratio; nothing where it never has it."""
    for trace in traces:
        begin(f"{trace.name}: where has LRU {lru_ratio:.1%}?")
        capacity = lru_size(trace, lru_ratio)
        if capacity is None:
            most = 1 - len(trace.sizes) / len(trace.keys)
            begin(f"{trace.name} left out: whatever the size, nobody has more than {most:.1%}")
        else:
            yield from _at_size(trace, policies, capacity / sum(trace.sizes), capacity, begin)


def lru_size(trace: Trace, hit_ratio: float) -> int | None:
    """The smallest size, to 0.1 %, at which LRU has at least `hit_ratio`; None if there is none."""
    needed = hit_ratio * len(trace.keys)
    low, high = 0, sum(trace.sizes)
    if len(trace.keys) - len(trace.sizes) < needed:
        return None
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        if replay(trace, "lru", middle)[0] < needed:
            low = middle
        else:
            high = middle
    return high


def _at_size(
    trace: Trace, policies: Sequence[str], fraction: float, capacity: int, begin: Callable[[str], None]
) -> Iterator[Result]:
    for policy in policies:
        begin(f"{trace.name} at {fraction:.3%}, {policy}")
        hits, seconds = replay(trace, policy, capacity)
        yield Result(
            trace=trace.name,
            policy=policy,
            size_fraction=fraction,
            size=capacity,
            requests=len(trace.keys),
            unique=len(trace.sizes),
            hit_ratio=hits / len(trace.keys),
            ns_per_request=seconds * 1e9 / len(trace.keys),
        )


def replay(trace: Trace, policy: str, capacity: int) -> tuple[int, float]:
    """How many requests a store of `capacity` answers, and the seconds of processor time that took.

    Every request is a look-up, and every miss admits, but for what is larger than the whole store.
    """
    sizes = trace.sizes
    fitting = trace.keys if max(sizes) <= capacity else [key for key in trace.keys if sizes[key] <= capacity]
    order = MAKERS[policy](capacity, fitting)
    hit, admit, evict = order.hit, order.admit, order.evict
    is_held = bytearray(len(sizes))
    free = capacity
    hits = 0
    start = time.thread_time()
    for key in fitting:
        if is_held[key]:
            hits += 1
            hit(key)
            continue
        size = sizes[key]
        while free < size:
            victim = evict()
            is_held[victim] = 0
            free += sizes[victim]
        admit(key, size)
        is_held[key] = 1
        free -= size
    return hits, time.thread_time() - start
