"""Copies that could not be left with who should have them, to be brought there later. Pure.

A holder that is slow or stopped gets no copy; the next on the ring does. Dynamo's hinted handoff (DeCandia et al., SOSP
2007, section 4.6), with the hint where the features were made, and where they were left instead, as in Dynamo: whoever
made them may not live to bring them. The directory finds the copy that lies elsewhere meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ring import NodeId

OWED_MAX = 1024  # beyond, the oldest is forgotten: a key with one copy too few
TRIES_MAX = 8


class Owed:
    """Who lacks which key, as far as this node knows."""

    def __init__(self) -> None:
        self._tries: dict[tuple[NodeId, bytes], int] = {}

    def __len__(self) -> int:
        return len(self._tries)

    def add(self, node: NodeId, key: bytes) -> None:
        """`node` should have `key`, and could not be given it."""
        if (node, key) not in self._tries and len(self._tries) >= OWED_MAX:
            del self._tries[next(iter(self._tries))]
        self._tries.setdefault((node, key), 0)

    def take(self) -> list[tuple[NodeId, bytes]]:
        """All that is owed; what is not `settled` then is still owed the next time, but not for ever."""
        due = list(self._tries)
        self._tries = {owed: tries + 1 for owed, tries in self._tries.items() if tries + 1 < TRIES_MAX}
        return due

    def settled(self, node: NodeId, key: bytes) -> None:
        """`node` has it, or need not have it any more."""
        self._tries.pop((node, key), None)
