"""Measures what simulating clusters of many nodes costs: to start, for an idle node, for a request, and memory.

    python -m tests.bench.scale [--nodes N ...] [--requests N] [--per-hour N]

Every kiosk of `edgecache-sim cluster --scenario kiosks` is asked as often, whatever their number, for as long as the
requests take; so what the nodes do while nothing happens is in each request's cost alike. Before the first request
comes, all have met and wait. One process for each size. All times are processor time of that one process.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import time
from dataclasses import replace

import numpy as np
from edgecache.simulations.record import Answer
from edgecache.simulations.scenario import scenario_named
from edgecache.simulations.world import requests_of, simulate

NODES = (10, 30, 100, 300)
REQUESTS, PER_HOUR = 10_000, 333
DISTINCT_MIN_HOURS = 0.02
# By then all that is said of newcomers has been said, and each node has probed each of 60 others.
SETTLE_S, IDLE_S = 60.0, 30.0


class _Clock:
    """Processor time at the run's landmarks."""

    def __init__(self) -> None:
        self.began = time.process_time()
        self.started = self.idle_from = self.idle_to = self.answered = 0.0

    def hears(self, share: float, what: str) -> None:
        """Progress: for the first time when all have met, for the last time when all requests are answered."""
        self.answered = time.process_time()
        if not self.started:
            self.started = time.process_time()
            loop = asyncio.get_running_loop()
            loop.call_later(SETTLE_S, self._idle_begins)
            loop.call_later(SETTLE_S + IDLE_S, self._idle_ends)

    def _idle_begins(self) -> None:
        self.idle_from = time.process_time()

    def _idle_ends(self) -> None:
        self.idle_to = time.process_time()


def _measure(nodes: int, requests: int, per_hour: float) -> None:
    hours = max(DISTINCT_MIN_HOURS, requests / nodes / per_hour)
    scenario = scenario_named("kiosks", {"devices": nodes, "hours": hours, "per_hour": per_hour})
    asked = requests_of(scenario)
    clock = _Clock()
    record = simulate(scenario, clock.hears, replace(asked, times=asked.times + SETTLE_S + IDLE_S))
    took_s, count = clock.answered - clock.idle_to, len(asked)
    answers = np.bincount(record.answers, minlength=len(Answer))
    print(
        f"{nodes} nodes, {hours:.2f} h, {count:,} requests: {clock.started - clock.began:.1f} s to start, "
        f"{(clock.idle_to - clock.idle_from) / nodes / IDLE_S * 1e6:.0f} µs for an idle node's second, "
        f"{took_s / count * 1e3:.2f} ms a request with what is idle between ({took_s / nodes / hours / 3600 * 1e6:.0f} "
        f"µs for a node's second), {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB; "
        f"{answers[Answer.PEER] / count:.0%} from peers, {answers[Answer.ENCODER] / count:.0%} encoded",
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
