"""simulations/virtual_time.py: a clock that jumps."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from edgecache.simulations.virtual_time import _CANCELLED_MIN, NothingWillHappen, in_virtual_time, run, running_loop


@in_virtual_time
async def test_a_year_passes_at_once() -> None:
    started, loop = time.perf_counter(), asyncio.get_running_loop()
    await asyncio.sleep(365 * 86400)
    assert loop.time() == pytest.approx(365 * 86400)
    assert time.perf_counter() - started < 5


@in_virtual_time
async def test_timers_fire_in_their_order() -> None:
    fired: list[float] = []
    loop = asyncio.get_running_loop()
    for delay in (3.0, 1.0, 2.0):
        loop.call_later(delay, lambda: fired.append(loop.time()))
    await asyncio.sleep(4.0)
    assert fired == pytest.approx([1.0, 2.0, 3.0])


@in_virtual_time
async def test_timers_far_and_near_fire_in_their_order_and_those_of_one_time_in_that_of_their_making() -> None:
    fired: list[tuple[float, int]] = []
    rng, loop = random.Random(1), running_loop()
    delays = [rng.choice((0.0, 0.001, 0.5, 1 / 64, 1.0, 60.0, 7200.0)) * rng.randint(1, 3) for _ in range(500)]
    for number, delay in enumerate(delays):
        if number % 2:
            loop.call_later(delay, fired.append, (delay, number))
        else:
            loop.post_at(delay, fired.append, (delay, number))
    await asyncio.sleep(1e6)
    assert fired == sorted((delay, number) for number, delay in enumerate(delays))


@in_virtual_time
async def test_cancelled_timers_do_not_fire_and_do_not_stay() -> None:
    fired: list[int] = []
    loop = running_loop()
    for number in range(10_000):
        timer = loop.call_later(3600.0 + number, fired.append, number)
        if number % 1000:
            timer.cancel()
    assert sum(map(len, loop._later.values())) < 2 * _CANCELLED_MIN + 10
    await asyncio.sleep(20_000.0)
    assert fired == list(range(0, 10_000, 1000))


def test_waiting_for_what_never_comes_is_an_error_and_not_a_hang() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingWillHappen):
        run(wait())
