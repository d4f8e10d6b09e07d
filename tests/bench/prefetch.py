"""What eviction and fetching ahead are worth for cameras: `python -m tests.bench.prefetch [--seeds N] [--lru-at P]`.

The edge-vision workload (simulations/workloads/edge_vision.py) with each of ten seeds, under a memory of the size at
which LRU has 70 %. Each policy alone, predictive LRU-K with the node's prefetcher, and Belady, who knows what comes
but fetches nothing ahead. Means of the seeds with 95 % intervals (Student's t); under them, what the prefetched entries
answered: each counts for the first look alone that it answers, since from then on it is an entry like any other.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from statistics import fmean, stdev

from edgecache.node.eviction.policies import POLICIES
from edgecache.node.prefetch import Forecast, Prefetcher
from edgecache.simulations import policies
from edgecache.simulations.prefetching import Outcome, run
from edgecache.simulations.traces import Trace
from edgecache.simulations.workloads.edge_vision import EdgeVision, Look

ALONE = ("lru", "s3-fifo", "lru-2", "adaptive-lru-k", "predictive-lru-k")
AHEAD = ("lru", "predictive-lru-k")
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # of 95 %


def trace_of(looks: Sequence[Look]) -> Trace:
    """The looks as a trace: keys by number, sizes in bytes."""
    numbers: dict[str, int] = {}
    keys = [numbers.setdefault(look.key, len(numbers)) for look in looks]
    sizes = [0] * len(numbers)
    for key, look in zip(keys, looks, strict=True):
        sizes[key] = look.size
    return Trace("edge-vision", keys, sizes)


def measure(seed: int, lru_at: float) -> tuple[float, dict[str, float]]:
    """The size, as a share of all that is looked at, and hit ratios by name for one seed."""
    looks = list(EdgeVision().looks(seed))
    trace = trace_of(looks)
    capacity = policies.lru_size(trace, lru_at)
    if capacity is None:
        raise SystemExit(f"--lru-at {lru_at:g}: with seed {seed} LRU never has that")
    seen_mb = sum(trace.sizes) / 1e6
    print(f"seed {seed}: {len(looks):,} looks at {len(trace.sizes):,} things, {capacity / 1e6:.0f} of {seen_mb:.0f} MB")
    ratios = {}
    for name in ALONE:
        ratios[name] = run(looks, capacity, POLICIES[name](capacity)).hit_ratio
    for name in AHEAD:
        ahead = run(looks, capacity, POLICIES[name](capacity), Prefetcher(capacity))
        ratios[f"{name} + prefetch"] = ahead.hit_ratio
    ratios |= parts(ahead)
    ratios["belady"] = policies.replay(trace, "belady", capacity)[0] / len(looks)
    return capacity / sum(trace.sizes), ratios


def parts(outcome: Outcome) -> dict[str, float]:
    """What was answered first by a prefetched entry, and how much of what was fetched was ever asked for."""
    by = {f"- first answers, by {forecast}": outcome.by_prefetch[forecast] / outcome.looks for forecast in Forecast}
    used, issued = sum(outcome.by_prefetch.values()), sum(outcome.issued.values())
    return by | {"- fetched and then asked for": used / max(issued, 1)}


def interval(values: Sequence[float]) -> str:
    """The mean, and how far off the truth may be."""
    half = STUDENT_T[len(values)] * stdev(values) / math.sqrt(len(values))
    return f"{100 * fmean(values):6.2f} % ± {100 * half:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.prefetch", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, choices=range(2, 11), help="how many (default: 10)")
    parser.add_argument("--lru-at", type=float, default=0.70, help="LRU's hit ratio (default: 0.70)")
    options = parser.parse_args()
    shares, rows = [], []
    for seed in range(options.seeds):
        share, ratios = measure(seed, options.lru_at)
        shares.append(share)
        rows.append(ratios)
    print(f"memory for {100 * fmean(shares):.1f} % of what is looked at")
    for name in rows[0]:
        print(f"{name:32} {interval([row[name] for row in rows])}")


if __name__ == "__main__":
    main()
