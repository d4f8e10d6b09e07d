"""Key -> owner and replicas: a consistent-hash ring with virtual nodes, weighted by capacity. Pure.

Every node computes the same ring from the same members, so a key's holders need no lookup and no agreement. When a
member goes, its keys move to those who follow on the ring, where their replica already lies; nothing else moves.
Karger et al., "Consistent Hashing and Random Trees" (STOC 1997); the ring itself is uhashring's ketama.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from itertools import chain, islice

from uhashring import HashRing

NodeId = str

VIRTUAL_NODES = 40  # uhashring's ketama makes 4 points of each
VIRTUAL_NODES_MIN = 32
VIRTUAL_NODES_MAX = 64
_USUAL_CAPACITY_BYTES = 1024**3
_HOLDERS_REMEMBERED = 16_384


def virtual_nodes(capacity_bytes: int) -> int:
    """How many virtual nodes a device gets: 40 at 1 GiB, 32 from 400 MiB down, 64 from 6.6 GiB up.

    40 × (capacity / 1 GiB) ^ ¼, so that a big device holds more without drawing most requests to itself. It depends on
    nothing but the device: with a share of the cluster's mean, each join would move keys between all others.
    """
    share = math.pow(max(capacity_bytes, 1) / _USUAL_CAPACITY_BYTES, 0.25)
    return max(VIRTUAL_NODES_MIN, min(VIRTUAL_NODES_MAX, round(VIRTUAL_NODES * share)))


class Ring:
    """The placement for one set of members; made anew when the set changes."""

    def __init__(self, capacities: Mapping[NodeId, int], copies: int) -> None:
        self._place({node: virtual_nodes(capacities[node]) for node in sorted(capacities)}, copies)

    def _place(self, placed: dict[NodeId, int], copies: int) -> None:
        self.copies = copies
        self.nodes = tuple(placed)
        self.virtual_nodes = placed
        self._points = _points(tuple(self.virtual_nodes.items()))
        self._remembered = lru_cache(_HOLDERS_REMEMBERED)(self._first)

    def without(self, nodes: Collection[NodeId]) -> Ring:
        """The ring as it would be if these were not there."""
        ring = object.__new__(Ring)
        ring._place({node: count for node, count in self.virtual_nodes.items() if node not in nodes}, self.copies)
        return ring

    def holders(self, key: bytes) -> tuple[NodeId, ...]:
        """The owner of `key`, then its replicas: `copies` different nodes, or all there are."""
        return self._remembered(key)

    def walk(self, key: bytes) -> Iterator[NodeId]:
        """Every node once, in the order in which they would come to hold `key`."""
        return self._points.walk(key)

    def _first(self, key: bytes) -> tuple[NodeId, ...]:
        return tuple(islice(self._points.walk(key), self.copies))


class _Points:
    """The points of all nodes, in their order. uhashring's own walk copies half of them: 48,000 for 300 nodes."""

    def __init__(self, virtual_nodes: Mapping[NodeId, int]) -> None:
        ring = HashRing(nodes={node: {"vnodes": count} for node, count in virtual_nodes.items()}, hash_fn="ketama")
        points = ring.get_points()
        self._positions = array("L", [position for position, _ in points])
        self._nodes = [str(node) for _, node in points]
        self._position_of = ring.hashi

    def walk(self, key: bytes) -> Iterator[NodeId]:
        """Every node once, from the first point after that of `key` on."""
        first = bisect(self._positions, self._position_of(key.hex()))
        seen: set[NodeId] = set()
        for at in chain(range(first, len(self._nodes)), range(first)):
            node = self._nodes[at]
            if node not in seen:
                seen.add(node)
                yield node


# A member that comes and goes makes the same two rings again and again. In a simulation all nodes of a process have the
# same: made for each of 250 alone, they had 8 million points, which took 36 s and 1 GB.
@lru_cache(8)
def _points(virtual_nodes: tuple[tuple[NodeId, int], ...]) -> _Points:
    return _Points(dict(virtual_nodes))
