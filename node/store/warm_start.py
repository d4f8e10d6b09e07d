"""After a restart: memory is filled from the disk, the most valuable first, and told in which order it was used.

In the background: one read at a time, and as long a rest after each as it took, so that a request finds the disk free
half of the time and never waits for more than one read of these.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tiers import Tiers

USES_TOLD_TOGETHER = 256


async def warm_memory(store: Tiers) -> int:
    """Fill what is free in memory; how many entries came. What was put or read meanwhile stays."""
    if store.disk is None:
        return 0
    disk, memory = store.disk.tier, store.memory
    loop = asyncio.get_running_loop()
    await disk.ready()
    came = 0
    for key in disk.by_worth():
        if key in memory or key not in disk:
            continue
        started = loop.time()
        payload = await store.read(key)
        if payload is None or key in memory:
            continue
        evictions = memory.evictions
        if not memory.has_room(payload) or not memory.put(payload):
            break
        came += 1
        if memory.evictions > evictions:  # for want of a hole; the first that goes is the most valuable
            break
        await asyncio.sleep(loop.time() - started)
    for told, key in enumerate(disk.uses()):
        if key in memory:
            memory.get(key)
        if told % USES_TOLD_TOGETHER == 0:
            await asyncio.sleep(0)
    return came
