"""Which keys go where after the members have changed. Pure.

A key moves only where the ring gives it a holder that it had not before: with consistent hashing (Karger et al., STOC
1997, section 4) that is what the newcomer takes over, or what the departed held, and nothing between others. One node
brings it there: the first of its former holders that is still a member and has it. Where all of those are gone, it is
the first by id of whoever has a copy for its own use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ring import NodeId, Ring


def takers(
    key: bytes, me: NodeId, before: Ring, after: Ring, believed: Callable[[bytes], Collection[NodeId]]
) -> list[NodeId]:
    """Whom this node, which holds `key`, has to bring it now that the ring is `after` and was `before`.

    `believed` says which other nodes are believed to hold it.
    """
    former = before.holders(key)
    new = [node for node in after.holders(key) if node not in former and node != me]
    if not new or (former and former[0] == me):
        return new
    others = [node for node in believed(key) if node in after.virtual_nodes]
    for node in former:
        if node == me:
            return new
        if node in others:
            return []
    return new if all(me < node for node in others if node not in new) else []
