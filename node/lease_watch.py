"""Is somebody still there whom others wait for? A process that hangs breaks no connection.

Who waits for another node's encode waits for that node, or for the owner that will tell. A member that has stopped is
noticed by the membership after seconds; whoever has an image in hand has not that long. So for as long as anybody
waits, the node in question is asked a small thing again and again, and is taken for lost as soon as it does not answer:
if it is not, that costs an encode, and nothing else.

A packet that is lost is sent again after 200 ms, unless one behind it arrives: then within a round trip (RFC 8985). So
a question that is not answered at once is followed by a second and a third.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .tasks import Tasks

if TYPE_CHECKING:
    from .neighbourhood import Neighbourhood
    from .ring import NodeId

# Most waits are over before the first question. Then they come more rarely, ten each second at last.
WATCH_FIRST_S = 0.02
WATCH_EVERY_S = 0.1
# The next question of a round follows after what 95 of 100 answers take, and this at least; after the last it is over.
# A busy device's event loop is 15 to 33 ms late.
QUESTIONS = 3
NEXT_S_MIN = 0.025


class LeaseWatch:
    """Asks those that others wait for, each once, however many wait."""

    def __init__(self, neighbourhood: Neighbourhood) -> None:
        self._neighbourhood = neighbourhood
        self._waiting: dict[NodeId, dict[object, Callable[[], None]]] = {}
        self._asking: Tasks[None] = Tasks()

    @contextlib.contextmanager
    def on(self, node: NodeId, key: bytes, on_silent: Callable[[], None]) -> Iterator[None]:
        """Within this `node` is asked whether it has `key`, and `on_silent` called when it does not say."""
        waiting = self._waiting.get(node)
        if waiting is None:
            waiting = self._waiting[node] = {}
            self._asking.start(self._watch(node, key, waiting))
        me = object()
        waiting[me] = on_silent
        try:
            yield
        finally:
            waiting.pop(me, None)

    async def _watch(self, node: NodeId, key: bytes, waiting: dict[object, Callable[[], None]]) -> None:
        pause_s = WATCH_FIRST_S
        try:
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, WATCH_EVERY_S)
                if not waiting:
                    return
                if not await self._is_there(node, key):
                    break
        finally:
            if self._waiting.get(node) is waiting:
                del self._waiting[node]
        for on_silent in list(waiting.values()):
            on_silent()

    async def _is_there(self, node: NodeId, key: bytes) -> bool:
        """Whether `node` answers one of a round of questions."""
        next_s = max(self._neighbourhood.costs.hedge_after_s(node), NEXT_S_MIN)
        asking: Tasks[set[bytes] | None] = Tasks()
        try:
            for left in range(QUESTIONS, 0, -1):
                # Not watched as other questions are: these many small answers say nothing of how it sends features.
                has = self._neighbourhood.peers.has(node, [key], left * next_s)
                asking.start(has)
                done, _ = await asyncio.wait(asking, timeout=next_s, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    return any(task.result() is not None for task in done)
            return False
        finally:
            asking.cancel()
