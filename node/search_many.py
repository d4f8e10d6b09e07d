"""Who has the features of many keys: every holder is asked once for all that it should have, all at the same time.

A holder that is late holds nobody up: the keys that it was asked for are asked of the next one beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..protocol.features import Source
from .found import Found
from .tasks import Tasks

if TYPE_CHECKING:
    from ..protocol.keys import FeatureKey
    from ..protocol.payload import Payload
    from .neighbourhood import Neighbourhood
    from .ring import NodeId


class SearchMany:
    """Looks for many keys on other nodes."""

    def __init__(self, neighbourhood: Neighbourhood, *, wants: Callable[..., bool], now: Callable[[], float]) -> None:
        """`wants` is asked of each payload, with the `min_fidelity` that it must have."""
        self._neighbourhood = neighbourhood
        self._wants = wants
        self._now = now

    async def find(
        self, keys: Sequence[FeatureKey], deadline: float, min_fidelity: float = -1.0
    ) -> dict[FeatureKey, Found]:
        """Those of `keys` that somebody has, as true as that."""
        wants = partial(self._wants, min_fidelity=min_fidelity)
        search = _Search(self._neighbourhood, keys, wants, deadline, self._now)
        try:
            await search.ask_holders()
            await search.ask_believed()
            await search.ask_untold()
            await search.arrive(deadline)
        finally:
            search.cancel()
        return search.found


class _Search:
    """One batch."""

    def __init__(
        self,
        neighbourhood: Neighbourhood,
        keys: Sequence[FeatureKey],
        wants: Callable[[Payload], bool],
        deadline: float,
        now: Callable[[], float],
    ) -> None:
        self.found: dict[FeatureKey, Found] = {}
        self._neighbourhood = neighbourhood
        self._keys = {key.packed: key for key in keys}
        self._wants = wants
        self._deadline = deadline
        self._now = now
        self._asking: Tasks[None] = Tasks()

    async def ask_holders(self) -> None:
        """The cheapest holder of each key, then the next one of those that are still missing, and so on."""
        near = self._neighbourhood
        await self._ask_by_rank({key: near.by_cost(near.holders(key)) for key in self._keys})

    async def ask_believed(self) -> None:
        """The same of who else has told that it has what is missing."""
        near = self._neighbourhood
        await self._ask_by_rank({key: near.by_cost(near.believed(key)) for key in self._missing()})

    async def _ask_by_rank(self, nodes: dict[bytes, list[NodeId]]) -> None:
        for rank in range(max(map(len, nodes.values()), default=0)):
            plan: dict[NodeId, list[bytes]] = {}
            for key in self._missing():
                if rank < len(nodes.get(key, ())):
                    plan.setdefault(nodes[key][rank], []).append(key)
            await self._fetch(plan)

    async def ask_untold(self) -> None:
        """Whoever says now that it has what is missing, of those that have told nothing yet."""
        missing = self._missing()
        others = self._neighbourhood.untold() if missing else []
        unasked = set(missing)

        async def has(node: NodeId) -> None:
            held = await self._neighbourhood.has(node, missing, self._deadline - self._now())
            wanted = [key for key in missing if key in held and key in unasked]
            unasked.difference_update(wanted)  # each from the first that says so
            if wanted:
                await self._get(node, wanted)

        for node in others:
            self._asking.start(has(node))

    async def arrive(self, until: float) -> None:
        """Wait for answers until all have come, nothing is missing, or it is `until`."""
        while self._asking and len(self.found) < len(self._keys) and (left_s := until - self._now()) > 0:
            done, _ = await asyncio.wait(tuple(self._asking), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    def cancel(self) -> None:
        """What has not come yet is not wanted any more."""
        self._asking.cancel()

    def _missing(self) -> list[bytes]:
        return [packed for packed, key in self._keys.items() if key not in self.found]

    async def _fetch(self, plan: dict[NodeId, list[bytes]]) -> None:
        """Ask every node of `plan` for its keys, and wait as long as all of them should take."""
        for node, keys in plan.items():
            self._asking.start(self._get(node, keys))
        if plan:
            costs = self._neighbourhood.costs
            usual_s = max(costs.hedge_after_s(node, len(keys)) for node, keys in plan.items())
            await self.arrive(min(self._deadline, self._now() + usual_s))

    async def _get(self, node: NodeId, keys: Iterable[bytes]) -> None:
        answer = await self._neighbourhood.get_many(node, list(keys), self._deadline - self._now())
        for packed, payload in answer.items():
            if self._wants(payload):
                found = Found(payload, Source.PEER, self._neighbourhood.peers.name(node))
                self.found.setdefault(self._keys[packed], found)
