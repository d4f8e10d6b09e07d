"""Key -> owner and replicas: a consistent-hash ring with virtual nodes, weighted by capacity. Pure.

Every node computes the same ring from the same members, so a key's holders need no lookup and no agreement. When a
member goes, its keys move to those who follow on the ring, where their replica already lies; nothing else moves.
Karger et al., "Consistent Hashing and Random Trees" (STOC 1997); the ring itself is uhashring's ketama.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from uhashring import HashRing

NodeId = str

VIRTUAL_NODES = 40  # uhashring's ketama makes 4 points of each: max/mean load 1.10 at 8 nodes (docs/benchmarks.md)
VIRTUAL_NODES_MIN = 32
VIRTUAL_NODES_MAX = 64
_HOLDERS_REMEMBERED = 16_384


def virtual_nodes(capacity_bytes: int, mean_capacity_bytes: float) -> int:
    """How many virtual nodes a device gets: 40 at the mean capacity, in proportion to it between 32 and 64."""
    share = capacity_bytes / mean_capacity_bytes if mean_capacity_bytes > 0 else 1.0
    return max(VIRTUAL_NODES_MIN, min(VIRTUAL_NODES_MAX, round(VIRTUAL_NODES * share)))


class Ring:
    """The placement for one set of members; made anew when the set changes."""

    def __init__(self, capacities: Mapping[NodeId, int], copies: int) -> None:
        self.copies = copies
        self.nodes = tuple(sorted(capacities))
        mean = sum(capacities.values()) / len(capacities) if capacities else 0.0
        self.virtual_nodes = {node: virtual_nodes(capacities[node], mean) for node in self.nodes}
        # uhashring takes weight × vnodes points; with one vnode the weight alone decides.
        self._ring = HashRing(
            nodes={node: {"vnodes": count} for node, count in self.virtual_nodes.items()}, hash_fn="ketama"
        )
        self._remembered = lru_cache(_HOLDERS_REMEMBERED)(self._first)

    def holders(self, key: bytes) -> tuple[NodeId, ...]:
        """The owner of `key`, then its replicas: `copies` different nodes, or all there are."""
        return self._remembered(key)

    def walk(self, key: bytes) -> Iterator[NodeId]:
        """Every node once, in the order in which they would come to hold `key`."""
        return (str(node["nodename"]) for node in self._ring.range(key.hex(), size=len(self.nodes), unique=True))

    def _first(self, key: bytes) -> tuple[NodeId, ...]:
        if not self.nodes:
            return ()
        found = self._ring.range(key.hex(), size=min(self.copies, len(self.nodes)), unique=True)
        return tuple(str(node["nodename"]) for node in found)
