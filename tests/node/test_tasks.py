"""What is under way is held until it is done, and ended in the order in which it began."""

from __future__ import annotations

import asyncio

from edgecache.node.tasks import Tasks
from edgecache.simulations.virtual_time import in_virtual_time


@in_virtual_time
async def test_a_task_is_held_until_it_is_done() -> None:
    tasks: Tasks[int] = Tasks()

    async def later() -> int:
        await asyncio.sleep(1)
        return 7

    task = tasks.start(later())
    assert list(tasks) == [task]
    assert await task == 7
    assert len(tasks) == 0


@in_virtual_time
async def test_all_end_in_the_order_of_their_beginning() -> None:
    tasks: Tasks[None] = Tasks()
    ended: list[int] = []

    async def until_cancelled(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    for number in range(50):
        tasks.start(until_cancelled(number))
    await asyncio.sleep(1)
    await tasks.close()
    assert ended == list(range(50))
    assert len(tasks) == 0


@in_virtual_time
async def test_one_that_fails_does_not_keep_the_others_from_ending() -> None:
    tasks: Tasks[None] = Tasks()

    async def fail() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("the disk is gone")

    tasks.start(fail())
    other = tasks.start(asyncio.sleep(60))
    await asyncio.sleep(1)
    await tasks.close()
    assert other.cancelled()
