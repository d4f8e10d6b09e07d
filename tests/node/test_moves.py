"""node/moves.py: who brings what to whom when members have changed."""

from __future__ import annotations

from hashlib import sha256

import pytest
from edgecache.node.moves import takers
from edgecache.node.ring import Ring

GIB = 1024**3
KEYS = [sha256(bytes([n % 256, n // 256])).digest() * 2 for n in range(3000)]


def ring(*numbers: int, copies: int = 2) -> Ring:
    return Ring({f"node-{n:02}": GIB for n in numbers}, copies)


def moves(before: Ring, after: Ring) -> dict[tuple[str, bytes], list[str]]:
    """Who brings which key to whom, where every holder on `before` that is still there has its keys."""
    brought: dict[tuple[str, bytes], list[str]] = {}
    for key in KEYS:
        held = [node for node in before.holders(key) if node in after.nodes]
        for me in held:
            others = [node for node in held if node != me]
            for node in takers(key, me, before, after, lambda key, others=others: others):  # type: ignore[misc]
                brought.setdefault((node, key), []).append(me)
    return brought


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize(
    ("before", "after"),
    [(range(8), range(9)), (range(9), range(8)), (range(8), range(1, 9)), (range(4), range(8)), (range(1), range(2))],
    ids=["join", "leave", "replaced", "healed", "second"],
)
def test_each_new_holder_gets_each_key_from_one_that_had_it_and_nothing_else_moves(
    before: range, after: range, copies: int
) -> None:
    old, new = ring(*before, copies=copies), ring(*after, copies=copies)
    brought = moves(old, new)
    expected = {
        (node, key)
        for key in KEYS
        if any(holder in new.nodes for holder in old.holders(key))
        for node in new.holders(key)
        if node not in old.holders(key)
    }
    assert set(brought) == expected
    assert all(len(bringers) == 1 for bringers in brought.values())


@pytest.mark.parametrize("size", [2, 8, 32])
def test_a_join_moves_no_more_than_the_newcomers_share(size: int) -> None:
    before, after = ring(*range(size)), ring(*range(size + 1))
    moved = len(moves(before, after))
    ideal = len(KEYS) * 2 / (size + 1)
    assert moved <= 1.3 * ideal


def test_where_no_former_holder_is_left_one_of_those_that_have_a_copy_brings_it() -> None:
    before, after = ring(*range(6)), ring(*range(2, 6))
    lost = next(key for key in KEYS if set(before.holders(key)) == {"node-00", "node-01"})
    new = list(after.holders(lost))
    havers = [node for node in after.nodes if node not in new]
    assert len(havers) == 2
    bringers = [
        me
        for me in havers
        if takers(lost, me, before, after, lambda key, me=me: [node for node in havers if node != me])  # type: ignore[misc]
    ]
    assert bringers == havers[:1]


def test_a_former_holder_that_has_lost_it_is_stood_in_for_by_the_next() -> None:
    before, after = ring(*range(8)), ring(*range(9))
    key = next(key for key in KEYS if "node-08" in after.holders(key))
    first, second = before.holders(key)
    assert takers(key, second, before, after, lambda key: [first]) == []
    assert takers(key, second, before, after, lambda key: []) == ["node-08"]
    assert takers(key, first, before, after, lambda key: [second]) == ["node-08"]
