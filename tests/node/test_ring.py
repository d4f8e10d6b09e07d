"""node/ring.py: placement."""

from __future__ import annotations

from hashlib import sha256

import pytest
from edgecache.node.ring import Ring, virtual_nodes

GIB = 1024**3
KEYS = [sha256(bytes([n % 256, n // 256])).digest() * 2 for n in range(4000)]


def ring(size: int, copies: int = 2) -> Ring:
    return Ring({f"node-{n}": GIB for n in range(size)}, copies)


def test_every_node_computes_the_same_holders_whatever_order_it_met_the_others_in() -> None:
    forwards = Ring({"a": GIB, "b": 2 * GIB, "c": GIB}, 2)
    backwards = Ring({"c": GIB, "b": 2 * GIB, "a": GIB}, 2)
    assert [forwards.holders(key) for key in KEYS] == [backwards.holders(key) for key in KEYS]


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 1), (2, 2), (8, 2)])
def test_there_are_as_many_holders_as_copies_or_as_nodes(size: int, expected: int) -> None:
    for key in KEYS[:200]:
        holders = ring(size).holders(key)
        assert len(holders) == len(set(holders)) == expected


def test_the_walk_starts_with_the_holders_and_meets_every_node_once() -> None:
    eight = ring(8)
    for key in KEYS[:200]:
        walk = list(eight.walk(key))
        assert tuple(walk[:2]) == eight.holders(key)
        assert sorted(walk) == list(eight.nodes)


def test_when_a_node_goes_its_replica_becomes_the_owner_and_nothing_else_moves() -> None:
    before, after = ring(8), Ring({f"node-{n}": GIB for n in range(7)}, 2)
    for key in KEYS:
        survivors = [node for node in before.walk(key) if node != "node-7"]
        assert list(after.walk(key)) == survivors


def test_the_load_is_spread() -> None:
    eight = ring(8)
    owned = dict.fromkeys(eight.nodes, 0)
    for key in KEYS:
        owned[eight.holders(key)[0]] += 1
    assert max(owned.values()) < 1.3 * len(KEYS) / 8
    assert min(owned.values()) > 0.7 * len(KEYS) / 8


@pytest.mark.parametrize(
    ("capacity", "expected"), [(0, 32), (GIB // 4, 32), (GIB, 40), (3 * GIB, 53), (8 * GIB, 64), (10**15, 64)]
)
def test_a_bigger_device_gets_more_virtual_nodes(capacity: int, expected: int) -> None:
    assert virtual_nodes(capacity) == expected
