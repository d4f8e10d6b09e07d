"""Keys move in the background when members have changed: slowly, the most valuable first, and never out of reach.

A ring counts once it has been the same for some time: a device that restarts, or a split that heals at once, moves
nothing. Then each node goes through what it holds, by worth, and brings each key to the holders that are new to it
(`moves.py`), after asking them what they have already. When the members change meanwhile, it begins anew from the ring
that it had last finished with; what is there already is not sent twice, so nothing of the work is lost.

Copies that a holder could not be given when they were made are brought to it too (`owed.py`).

A member that has started anew counts as one that is new: what was in its memory alone is gone. And what a node's own
disk has from before its start, it brings to whoever is not known to have it.

Until a key has come to its new holders it is found on the former ones: they keep it as they keep everything, until it
is evicted, and for as long as some node may still be moving, they are asked too (`former_holders`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .moves import takers

if TYPE_CHECKING:
    from ..protocol.payload import Payload
    from .neighbourhood import Neighbourhood
    from .owed import Owed
    from .ring import NodeId, Ring
    from .stats import Stats
    from .store.tiers import Tiers

# A process that is started anew is back in the ring before that, and a death is known to all.
SETTLED_S = 10.0
# A fifth of what a busy Wi-Fi carries: a node of 10 GB that joins seven others gets its share in 20 minutes.
BYTES_PER_S = 2_000_000
# So many keys are gone through at a time: 5 ms, and then requests have their turn.
BATCH_KEYS = 128
PAUSE_S = 0.05
# Another node may be at it for longer than this one, but by then directories say who holds what.
FORMER_S = 120.0
ASK_TIMEOUT_S = 2.0
OWED_EVERY_S = 10.0  # who was slow or stopped may be well again
PUT_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


class Moving:
    """Brings what one node holds to where it belongs."""

    def __init__(
        self,
        me: NodeId,
        *,
        store: Tiers,
        ring: Callable[[], Ring],
        boots: Callable[[], Mapping[NodeId, str]],
        neighbourhood: Neighbourhood,
        owed: Owed,
        stats: Stats,
        now: Callable[[], float],
    ) -> None:
        """`boots`: which start of each of the other members this is."""
        self._me = me
        self._boots = boots
        self._placed_boots: Mapping[NodeId, str] = {}
        self._store = store
        self._ring = ring
        self._neighbourhood = neighbourhood
        self._owed = owed
        self._owed_at = now()
        self._stats = stats
        self._now = now
        self._version = -1
        self._changed_at: float | None = now()  # None: this node has finished with the ring as it is
        self._placed: Ring | None = None  # the one that this node has last finished with
        self._former: Ring | None = None  # the one before it
        self._former_until = 0.0
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def is_done(self) -> bool:
        """Whether this node has finished with the ring as it was when it last looked, and owes nobody a copy."""
        return self._changed_at is None and not len(self._owed)

    def unsettled_holders(self, key: bytes) -> list[NodeId]:
        """Whose `key` was before the members changed, until this node has finished with who they are now."""
        return list(self._placed.holders(key)) if self._placed is not None and self._changed_at is not None else []

    def former_holders(self, key: bytes) -> list[NodeId]:
        """Who may still have `key` from before the members changed."""
        former = self._former.holders(key) if self._former is not None and self._now() < self._former_until else ()
        return list(dict.fromkeys((*self.unsettled_holders(key), *former)))

    def tick(self, version: int) -> None:
        """Time passes; `version` counts the changes of who is in the ring."""
        if version != self._version:
            self._version, self._changed_at = version, self._now()
        if self._task is not None or self._is_closed:
            return
        if self._changed_at is None:
            if len(self._owed) and self._now() - self._owed_at >= OWED_EVERY_S:
                self._owed_at = self._now()
                self._task = asyncio.ensure_future(self._pay())
            return
        if self._now() - self._changed_at < SETTLED_S:
            return
        ring, boots = self._ring(), dict(self._boots())
        if self._placed is None:
            before = ring.without(ring.nodes)
        else:
            restarted = [node for node, boot in boots.items() if self._placed_boots.get(node, boot) != boot]
            before = self._placed.without(restarted)
        if ring.virtual_nodes == before.virtual_nodes:
            self._finish(ring, boots)
        else:
            self._task = asyncio.ensure_future(self._move(before, ring, boots, version))

    async def _move(self, before: Ring, after: Ring, boots: Mapping[NodeId, str], version: int) -> None:
        moved, is_complete = self._stats.moved, True
        try:
            keys = self._store.by_worth()
            for at in range(0, len(keys), BATCH_KEYS):
                if self._version != version:
                    return
                is_complete &= await self._bring(keys[at : at + BATCH_KEYS], before, after)
                await asyncio.sleep(PAUSE_S)
            if self._version == version and is_complete:
                self._finish(after, boots)
            elif self._version == version:
                self._changed_at = self._now()  # somebody did not answer: once more, a little later
        finally:
            self._task = None
            if self._stats.moved != moved:
                _log.info("brought %d features to their new holders", self._stats.moved - moved)

    async def _pay(self) -> None:
        """Bring what could not be left with its holders when it was made."""
        near = self._neighbourhood
        try:
            for node, key in self._owed.take():
                # Not of the ring as it is: who is held for dead this moment and is back the next is brought nothing
                # else, since for the ring that has settled then it is no newcomer.
                assert self._placed is not None
                holders = self._placed.holders(key)
                if node not in holders:
                    self._owed.settled(node, key)
                elif near.may_ask(node):
                    if key in await near.has(node, [key], ASK_TIMEOUT_S):
                        self._owed.settled(node, key)
                        continue
                    payload, is_known = await self._kept(key, [it for it in holders if it != node])
                    if payload is not None:
                        is_known = await near.put(node, payload, 0.0, PUT_TIMEOUT_S)
                        await asyncio.sleep(payload.nbytes / BYTES_PER_S)
                    if is_known:
                        self._owed.settled(node, key)
        finally:
            self._task = None

    async def _kept(self, key: bytes, holders: Sequence[NodeId]) -> tuple[Payload | None, bool]:
        """`key` from here, or from one of its `holders`: another put may have had the copy that was here forgotten.

        Whether that is known, too: who does not answer may have it.
        """
        near, is_known = self._neighbourhood, True
        payload = await self._store.read(key)
        for node in holders:
            if payload is None and node != self._me:
                reply = await near.get(node, key, ASK_TIMEOUT_S) if near.may_ask(node) else None
                payload, is_known = (None, False) if reply is None else (reply.payload, is_known)
        return payload, is_known

    async def _bring(self, keys: list[bytes], before: Ring, after: Ring) -> bool:
        """Whether everybody could be asked."""
        near = self._neighbourhood
        plan: dict[NodeId, list[bytes]] = {}
        for key in keys:
            for node in self._takers(key, before, after):
                plan.setdefault(node, []).append(key)
        wanted: dict[bytes, list[NodeId]] = {}
        is_complete = True
        for node, theirs in plan.items():
            if not near.may_ask(node):
                is_complete = False
                continue
            held = await near.has(node, theirs, ASK_TIMEOUT_S)
            for key in theirs:
                if key not in held:
                    wanted.setdefault(key, []).append(node)
        for key in [key for key in keys if key in wanted]:
            payload = await self._store.read(key)
            if payload is None:  # it was evicted meanwhile
                continue
            for node in wanted[key]:
                if await near.put(node, payload, 0.0, PUT_TIMEOUT_S):
                    self._stats.moved += 1
                else:
                    self._owed.add(node, key)
                await asyncio.sleep(payload.nbytes / BYTES_PER_S)
        return is_complete

    def _takers(self, key: bytes, before: Ring, after: Ring) -> list[NodeId]:
        believed = self._neighbourhood.peers.believed
        if before.nodes:
            return takers(key, self._me, before, after, believed)
        # This node has just started. Others go by where they had it, and may count on this one: it cannot know.
        return [node for node in after.holders(key) if node != self._me and node not in believed(key)]

    def _finish(self, ring: Ring, boots: Mapping[NodeId, str]) -> None:
        if self._placed is not None and self._placed.virtual_nodes != ring.virtual_nodes:
            self._former, self._former_until = self._placed, self._now() + FORMER_S
        self._placed, self._placed_boots, self._changed_at = ring, boots, None

    async def close(self) -> None:
        """Move nothing more."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
