"""Leaving without loss: what would have no copy left, or one too few, goes to its next holders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..protocol.payload import Payload
    from .lookup import Peers
    from .ring import NodeId, Ring

PUTS_IN_FLIGHT = 8
BATCH_KEYS = 512
ASK_TIMEOUT_S = 2.0
PUT_TIMEOUT_S = 2.0


async def hand_over(
    payloads: Iterable[Payload], ring: Ring, peers: Peers, deadline: float, now: Callable[[], float]
) -> int:
    """Put `payloads` with their holders on `ring`, the ring without this node, where they are not yet.

    Sole copies first. Returns how many puts were accepted; stops at `deadline`.
    """
    held = list(payloads)
    sole: list[tuple[NodeId, Payload]] = []
    second: list[tuple[NodeId, Payload]] = []
    for at in range(0, len(held), BATCH_KEYS):
        batch = held[at : at + BATCH_KEYS]
        have = await _who_has(batch, ring, peers)
        for payload in batch:
            holders = ring.holders(payload.key.packed)
            lacking = [node for node in holders if payload.key.packed not in have[node]]
            (sole if len(lacking) == len(holders) else second).extend((node, payload) for node in lacking)

    accepted = 0
    places = asyncio.Semaphore(PUTS_IN_FLIGHT)

    async def put(node: NodeId, payload: Payload) -> None:
        nonlocal accepted
        async with places:
            if now() < deadline:
                accepted += await peers.put(node, payload, 0.0, min(PUT_TIMEOUT_S, deadline - now()))

    for puts in (sole, second):
        await asyncio.gather(*(put(node, payload) for node, payload in puts))
    return accepted


async def _who_has(batch: list[Payload], ring: Ring, peers: Peers) -> dict[NodeId, set[bytes]]:
    """Which of the keys of `batch` each of their holders has."""
    wanted: dict[NodeId, list[bytes]] = {}
    for payload in batch:
        for node in ring.holders(payload.key.packed):
            wanted.setdefault(node, []).append(payload.key.packed)
    answers = await asyncio.gather(*(peers.has(node, keys, ASK_TIMEOUT_S) for node, keys in wanted.items()))
    return dict(zip(wanted, answers, strict=True))
