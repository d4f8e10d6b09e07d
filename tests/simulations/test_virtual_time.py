"""simulations/virtual_time.py: a clock that jumps."""

from __future__ import annotations

import asyncio
import time

import pytest
from edgecache.simulations.virtual_time import NothingWillHappen, in_virtual_time, run


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


def test_waiting_for_what_never_comes_is_an_error_and_not_a_hang() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingWillHappen):
        run(wait())
