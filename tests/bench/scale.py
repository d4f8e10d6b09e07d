"""Measures what simulating clusters of many nodes costs: processor time for a request, to start, and memory.

    python -m tests.bench.scale [--nodes N ...] [--requests N] [--per-hour N]

Every kiosk of `edgecache-sim cluster --scenario kiosks` is asked as often, whatever their number, for as long as the
requests take; so what the nodes do while nothing happens is in each request's cost alike. One process for each size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import numpy as np
from edgecache.simulations.scenario import scenario_named
from edgecache.simulations.world import Answer, simulate

NODES = (10, 30, 100, 300)
REQUESTS, PER_HOUR = 10_000, 333
DISTINCT_MIN_HOURS = 0.02


def _measure(nodes: int, requests: int, per_hour: float) -> None:
    hours = max(DISTINCT_MIN_HOURS, requests / nodes / per_hour)
    scenario = scenario_named("kiosks", {"devices": nodes, "hours": hours, "per_hour": per_hour})
    started: list[float] = []
    began = time.process_time()
    record = simulate(scenario, lambda share, what: started.append(time.process_time()) if not started else None)
    ended = time.process_time()
    count = len(record.requests)
    answers = np.bincount(record.answers, minlength=len(Answer))
    from_peers, encoded = answers[Answer.PEER] / count, answers[Answer.ENCODER] / count
    print(
        f"{nodes} nodes, {hours:.2f} h, {count:,} requests: {(ended - started[0]) / count * 1e3:.2f} ms a request "
        f"({(ended - started[0]) / nodes / hours / 3600 * 1e6:.0f} µs for a node's second), {started[0] - began:.1f} s "
        f"to start, {ended - began:.0f} s in all, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB; "
        f"{from_peers:.0%} from peers, {encoded:.0%} encoded",
        flush=True,
    )


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"about so many (default: {REQUESTS})")
    parser.add_argument("--per-hour", type=float, default=PER_HOUR, help=f"requests on a node (default: {PER_HOUR})")
    options = parser.parse_args()
    for nodes in options.nodes:
        process = multiprocessing.get_context("spawn").Process(
            target=_measure, args=(nodes, options.requests, options.per_hour)
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main()
