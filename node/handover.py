"""Leaving without loss: what would have no copy left, or one too few, goes to its next holders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .neighbourhood import Peers
    from .ring import NodeId, Ring
    from .store.tiers import Tiers

PUTS_IN_FLIGHT = 8
BATCH_KEYS = 512
ASK_TIMEOUT_S = 2.0
PUT_TIMEOUT_S = 2.0


async def hand_over(store: Tiers, ring: Ring, peers: Peers, deadline: float, now: Callable[[], float]) -> int:
    """Put what `store` holds with its holders on `ring`, the ring without this node, where it is not yet.

    Sole copies first; of those, what is in memory before what is on disk. Returns how many puts were accepted; stops at
    `deadline`.
    """
    keys = store.keys()
    sole: list[tuple[NodeId, bytes]] = []
    second: list[tuple[NodeId, bytes]] = []
    for at in range(0, len(keys), BATCH_KEYS):
        if now() >= deadline:
            break
        batch = keys[at : at + BATCH_KEYS]
        have = await _who_has(batch, ring, peers)
        for key in batch:
            holders = ring.holders(key)
            lacking = [node for node in holders if key not in have[node]]
            (sole if len(lacking) == len(holders) else second).extend((node, key) for node in lacking)

    accepted = 0

    async def put(waiting: Iterator[tuple[NodeId, bytes]]) -> None:
        nonlocal accepted
        for node, key in waiting:
            payload = await store.read(key)
            if (left_s := deadline - now()) <= 0:
                return
            if payload is not None:
                accepted += bool(await peers.put(node, payload, 0.0, min(PUT_TIMEOUT_S, left_s)))

    for puts in (sole, second):
        waiting = iter(puts)
        await asyncio.gather(*(put(waiting) for _ in range(PUTS_IN_FLIGHT)))
    return accepted


async def _who_has(batch: list[bytes], ring: Ring, peers: Peers) -> dict[NodeId, set[bytes]]:
    """Which of the keys of `batch` each of their holders has."""
    wanted: dict[NodeId, list[bytes]] = {}
    for key in batch:
        for node in ring.holders(key):
            wanted.setdefault(node, []).append(key)
    answers = await asyncio.gather(*(peers.has(node, keys, ASK_TIMEOUT_S) for node, keys in wanted.items()))
    return {node: held or set() for node, held in zip(wanted, answers, strict=True)}
