"""LIRS: what is used again soon stays, however long ago its last use is; the rest passes through a small queue."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, cast

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
        self._hir_share = hir_share
        self._ghost_capacities = ghost_capacities
        self._stack: OrderedDict[Key, int] = OrderedDict()  # oldest use first: the size of a LIR entry, else 0
        self._lir_count = 0
        self._lir_size = 0
        self._hir: SizedQueue[Key] = SizedQueue()
        self._ghosts: SizedQueue[Key] = SizedQueue()  # all of them are on the stack
        self.resize(capacity)

    def __len__(self) -> int:
        return self._lir_count + len(self._hir)

    def __contains__(self, key: object) -> bool:
        return key in self._hir or self._stack.get(cast(Key, key), 0) > 0

    def hit(self, key: Key) -> None:
        """Renew `key` on the stack; a HIR entry that was on it becomes LIR."""
        stack = self._stack
        on_stack = stack.get(key)
        if on_stack:
            stack.move_to_end(key)
            if not stack[next(iter(stack))]:
                self._prune()
        elif on_stack is not None:
            self._promote(key, self._hir.take(key))
        else:
            stack[key] = 0
            self._hir.renew(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """LIR while there is room or if its ghost is still on the stack, else HIR."""
        if key in self._ghosts:
            self._ghosts.take(key)
            self._promote(key, size)
        elif self._lir_size + size <= self._lir_max:
            self._promote(key, size)
        else:
            self._stack[key] = 0
            self._hir.push(key, size)

    def evict(self) -> Key:
        """The oldest HIR entry; its key stays on the stack if it is still there."""
        if not self._hir:
            self._demote()
        key, size = self._hir.pop()
        if key in self._stack:
            self._ghosts.push(key, size)
            self._bound_ghosts()
        return key

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        size = self._stack.pop(key, 0)
        if size:
            self._lir_count -= 1
            self._lir_size -= size
        else:
            self._hir.take(key)
        self._prune()

    def resize(self, capacity: int) -> None:
        """New shares: the oldest LIR entries make room, and the oldest ghosts go."""
        self._lir_max = capacity - max(1, int(self._hir_share * capacity))
        self._ghost_max = self._ghost_capacities * capacity
        self._bound_lir()
        self._bound_ghosts()

    def check(self) -> None:
        """Assert who is where, and that the stack ends in a LIR entry."""
        lir = {key: size for key, size in self._stack.items() if size}
        assert len(lir) == self._lir_count
        assert not lir.keys() & {*self._hir, *self._ghosts}
        assert not {*self._hir} & {*self._ghosts}
        assert {*self._ghosts} <= self._stack.keys()
        assert self._stack.keys() <= lir.keys() | {*self._hir, *self._ghosts}
        assert not self._stack or self._stack[next(iter(self._stack))]
        assert self._lir_size == sum(lir.values())
        assert self._lir_size <= self._lir_max or self._lir_count == 1
        assert self._ghosts.size <= self._ghost_max
        self._hir.check()
        self._ghosts.check()

    def _promote(self, key: Key, size: int) -> None:
        """Make `key` LIR and the newest; the oldest LIR entries make room."""
        self._stack[key] = size
        self._stack.move_to_end(key)
        self._lir_count += 1
        self._lir_size += size
        self._bound_lir()
        self._prune()

    def _bound_lir(self) -> None:
        while self._lir_size > self._lir_max and self._lir_count > 1:
            self._demote()

    def _bound_ghosts(self) -> None:
        while self._ghosts.size > self._ghost_max:
            del self._stack[self._ghosts.pop()[0]]

    def _demote(self) -> None:
        """The oldest LIR entry becomes the newest of the HIR queue."""
        key, size = self._stack.popitem(False)
        self._lir_count -= 1
        self._lir_size -= size
        self._hir.push(key, size)
        self._prune()

    def _prune(self) -> None:
        """Take from the bottom of the stack all that is not LIR."""
        stack = self._stack
        while stack:
            key = next(iter(stack))
            if stack[key]:
                return
            del stack[key]
            if key in self._ghosts:
                self._ghosts.take(key)
