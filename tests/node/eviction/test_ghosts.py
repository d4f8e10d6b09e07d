"""node/eviction/ghosts.py: what left lately is known again, what left long ago is not."""

from __future__ import annotations

from array import array

from edgecache.node.eviction.frequency_sketch import key_digest
from edgecache.node.eviction.ghosts import Ghosts

ROOM = 1000


def filled(count: int) -> tuple[Ghosts, array[int]]:
    left_at = array("I")
    ghosts = Ghosts(left_at)
    ghosts.ensure_room(ROOM)
    for key in range(count):
        left_at[ghosts.put(key_digest(key))] = key
    return ghosts, left_at


def test_lately_gone_are_remembered_with_what_is_said_of_them() -> None:
    ghosts, left_at = filled(5000)
    places = [ghosts.find(key_digest(key)) for key in range(4700, 5000)]
    known = [left_at[place] for place in places if place >= 0]
    assert known == [key for key, place in zip(range(4700, 5000), places, strict=True) if place >= 0]
    assert len(known) > 290
    assert all(ghosts.find(key_digest(key)) < 0 for key in range(1000))


def test_what_was_taken_or_never_came_is_not_found() -> None:
    ghosts, _ = filled(100)
    place = ghosts.find(key_digest(7))
    assert place >= 0
    ghosts.take(place)
    assert ghosts.find(key_digest(7)) < 0
    assert ghosts.find(key_digest(100_000)) < 0


def test_growing_forgets_nothing() -> None:
    ghosts, left_at = filled(5000)
    known = {key for key in range(5000) if ghosts.find(key_digest(key)) >= 0}
    ghosts.ensure_room(5 * ROOM)
    ghosts.check()
    assert len(ghosts) >= 3 * ROOM
    assert {key for key in range(5000) if ghosts.find(key_digest(key)) >= 0} == known
    assert all(left_at[ghosts.find(key_digest(key))] == key for key in known)


def test_room_is_what_was_asked_for() -> None:
    ghosts, _ = filled(1)
    assert abs(len(ghosts) - ROOM) <= 4
    ghosts.ensure_room(1.4 * ROOM)
    assert abs(len(ghosts) - ROOM) <= 4
