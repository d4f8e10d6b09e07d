"""LIRS: what is used again soon stays, however long ago its last use is; the rest passes through a small queue."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic

from .policy import NO_FACTS, Facts, Key
from .sized_queue import SizedQueue

# The share of the capacity for entries that have not shown a short distance yet (the paper's Lhirs, section 3.2).
HIR_SHARE = 0.01

# Keys that are remembered after their eviction are worth this many capacities. The paper leaves them unbounded; with 1
# the hit ratios are libCacheSim's. Other bounds differ by up to 3 points either way, and none is best on all traces.
GHOST_CAPACITIES = 1.0


class LIRS(Generic[Key]):
    """Low inter-reference recency set. O(1) each, amortised.

    Order entries not by how long ago their last use is but by how many others were used *between* their last two uses
    (the inter-reference recency). Entries where that is short are LIR and have nearly all the room. All others are HIR:
    a newcomer waits in a small FIFO and goes soon.

    The stack holds keys by last use, down to the oldest LIR entry. A HIR key that is used while it is still on the
    stack has been away for less time than that oldest LIR entry: they change places. That holds for a HIR key whose
    entry is gone already, so such ghosts stay on the stack. Whatever lies below the oldest LIR entry can no longer
    win, and is pruned.

    S. Jiang, X. Zhang, "LIRS: an efficient low inter-reference recency set replacement policy to improve buffer cache
    performance", SIGMETRICS 2002, section 3. Ours is bounded in ghosts (oldest first), and in sizes instead of blocks.
    """

    def __init__(self, capacity: int, hir_share: float = HIR_SHARE, ghost_capacities: float = GHOST_CAPACITIES) -> None:
        self._lir_max = capacity - max(1, int(hir_share * capacity))
        self._ghost_max = ghost_capacities * capacity
        self._stack: OrderedDict[Key, None] = OrderedDict()  # oldest use first
        self._lir: dict[Key, int] = {}
        self._lir_size = 0
        self._hir: SizedQueue[Key] = SizedQueue()
        self._ghosts: SizedQueue[Key] = SizedQueue()  # all of them are on the stack

    def __len__(self) -> int:
        return len(self._lir) + len(self._hir)

    def __contains__(self, key: object) -> bool:
        return key in self._lir or key in self._hir

    def hit(self, key: Key) -> None:
        """Renew `key` on the stack; a HIR entry that was on it becomes LIR."""
        if key in self._lir:
            self._stack.move_to_end(key)
            self._prune()
        elif key in self._stack:
            self._promote(key, self._hir.take(key))
        else:
            self._stack[key] = None
            self._hir.renew(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """LIR while there is room or if its ghost is still on the stack, else HIR."""
        if key in self._ghosts:
            self._ghosts.take(key)
            self._promote(key, size)
        elif self._lir_size + size <= self._lir_max:
            self._promote(key, size)
        else:
            self._stack[key] = None
            self._hir.push(key, size)

    def evict(self) -> Key:
        """The oldest HIR entry; its key stays on the stack if it is still there."""
        if not self._hir:
            self._demote()
        key, size = self._hir.pop()
        if key in self._stack:
            self._ghosts.push(key, size)
            while self._ghosts.size > self._ghost_max:
                del self._stack[self._ghosts.pop()[0]]
        return key

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        if key in self._lir:
            self._lir_size -= self._lir.pop(key)
        else:
            self._hir.take(key)
        self._stack.pop(key, None)
        self._prune()

    def check(self) -> None:
        """Assert who is where, and that the stack ends in a LIR entry."""
        assert not self._lir.keys() & {*self._hir, *self._ghosts}
        assert not {*self._hir} & {*self._ghosts}
        assert self._lir.keys() | {*self._ghosts} <= self._stack.keys()
        assert self._stack.keys() <= self._lir.keys() | {*self._hir, *self._ghosts}
        assert not self._stack or next(iter(self._stack)) in self._lir
        assert self._lir_size == sum(self._lir.values())
        assert self._lir_size <= self._lir_max or len(self._lir) == 1
        assert self._ghosts.size <= self._ghost_max
        self._hir.check()
        self._ghosts.check()

    def _promote(self, key: Key, size: int) -> None:
        """Make `key` LIR and the newest; the oldest LIR entries make room."""
        self._stack[key] = None
        self._stack.move_to_end(key)
        self._lir[key] = size
        self._lir_size += size
        while self._lir_size > self._lir_max and len(self._lir) > 1:
            self._demote()
        self._prune()

    def _demote(self) -> None:
        """The oldest LIR entry becomes the newest of the HIR queue."""
        key, _ = self._stack.popitem(last=False)
        size = self._lir.pop(key)
        self._lir_size -= size
        self._hir.push(key, size)
        self._prune()

    def _prune(self) -> None:
        """Take from the bottom of the stack all that is not LIR."""
        while self._stack:
            key = next(iter(self._stack))
            if key in self._lir:
                return
            del self._stack[key]
            if key in self._ghosts:
                self._ghosts.take(key)
