"""Leaving features where the ring wants them: with their owner and its replica, or whoever follows on the ring."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from .tasks import Tasks

if TYPE_CHECKING:
    from ..protocol.payload import Payload
    from .neighbourhood import Neighbourhood
    from .owed import Owed
    from .ring import NodeId

# A holder that takes longer to store a copy than this is passed over for the next on the ring.
PUT_TIMEOUT_S = 0.5
# Payloads whose copies go on behind their answer; 10 MB of the usual kind. Beyond, one is only where it was made.
BEHIND_MAX = 64

NOBODY: Mapping[NodeId, Awaitable[object]] = MappingProxyType({})


class Copies:
    """Puts payloads on other nodes."""

    def __init__(self, neighbourhood: Neighbourhood, owed: Owed, now: Callable[[], float]) -> None:
        """`owed` hears of holders that could not be given theirs."""
        self._neighbourhood = neighbourhood
        self._owed = owed
        self._now = now
        self._behind: Tasks[int] = Tasks()

    async def leave(
        self, payload: Payload, started: float, forgetting: Mapping[NodeId, Awaitable[object]] = NOBODY
    ) -> int:
        """Put `payload`, whose making began at `started`, until there are enough; how many other nodes have it.

        `forgetting`: who was told to forget what it has of that key, and when it has done so.
        """
        ring, me = self._neighbourhood.ring(), self._neighbourhood.me
        wanted = ring.copies - (me in ring.holders(payload.key.packed))
        walk = ring.walk(payload.key.packed)  # seldom far, however many nodes there are
        candidates = (node for node in walk if node != me and self._neighbourhood.may_ask(node))
        took: list[NodeId] = []
        while len(took) < wanted and (batch := list(islice(candidates, wanted - len(took)))):
            puts = [self._put(node, payload, started, forgetting.get(node)) for node in batch]
            took += [node for node, was_kept in zip(batch, await asyncio.gather(*puts), strict=True) if was_kept]
        self._owe(payload.key.packed, took)
        return len(took)

    async def _put(self, node: NodeId, payload: Payload, started: float, forgetting: Awaitable[object] | None) -> bool:
        if forgetting is not None:  # it refuses what was made before that; and this it should keep
            await forgetting
            started = self._now()
        return await self._neighbourhood.put(node, payload, self._now() - started, PUT_TIMEOUT_S)

    def took_in(self, payload: Payload) -> None:
        """Another node has left `payload` here, and owes it to whoever it could not leave it with: so does this one.

        That is where this node only stands in for a holder, or another does while members change: whoever made
        the features may not live to pay.
        """
        key, near = payload.key.packed, self._neighbourhood
        holders, before = near.ring().holders(key), near.unsettled_holders(key)
        if near.me not in holders or (before and set(before) != set(holders)):
            self._owe(key, ())

    def _owe(self, key: bytes, took: Sequence[NodeId]) -> None:
        near = self._neighbourhood
        # Also who was a holder until a moment ago: back before any key has moved, it would not be brought this one.
        for node in dict.fromkeys((*near.holders(key), *near.unsettled_holders(key))):
            if node != near.me and node not in took:
                self._owed.add(node, key)

    async def leave_soon(self, payload: Payload, started: float, wait_s: float) -> None:
        """The same, and not waited for longer than `wait_s`: the rest is done behind the answer."""
        if len(self._behind) >= BEHIND_MAX:
            return
        await asyncio.wait({self._behind.start(self.leave(payload, started))}, timeout=wait_s)

    async def close(self) -> None:
        """Begin nothing more, and end what is under way."""
        await self._behind.close()
