"""W-TinyLFU: what leaves a small window stays only if it is used more often than what would have to go for it."""

from __future__ import annotations

from typing import Generic

from .frequency_sketch import FrequencySketch
from .policy import NO_FACTS, Facts, Key
from .sized_queue import SizedQueue

# The paper's shares (section 4): 1 % for the window, four fifths of the rest for entries used again.
WINDOW_SHARE = 0.01
PROTECTED_SHARE = 0.8


class WTinyLFU(Generic[Key]):
    """A window for what is new, a segmented LRU for what is frequent, and a duel between the two. O(1) each, amortised.

    All uses, of keys not held too, are counted in a sketch that ages. The window's oldest entry meets the main part's
    least recently used one, and the one used more often stays; a tie is the holder's. A scan so never gets past the
    window. The window catches bursts of what the sketch does not know yet. Strong where popularity is steady; weak
    where recency rules, since 1 % is little room to prove oneself (Caffeine moves the border by hill climbing; we do
    not).

    G. Einziger, R. Friedman, B. Manes, "TinyLFU: a highly efficient cache admission policy", ACM Transactions on
    Storage 13(4), 2017, section 4. Ours differs in having no doorkeeper, and no random winner against flooding.
    """

    def __init__(self, capacity: int) -> None:
        self._window_max = max(1.0, WINDOW_SHARE * capacity)
        self._main_max = capacity - self._window_max
        self._protected_max = PROTECTED_SHARE * self._main_max
        self._uses = FrequencySketch()
        self._window: SizedQueue[Key] = SizedQueue()
        self._probation: SizedQueue[Key] = SizedQueue()
        self._protected: SizedQueue[Key] = SizedQueue()

    def __len__(self) -> int:
        return len(self._window) + len(self._probation) + len(self._protected)

    def __contains__(self, key: object) -> bool:
        return key in self._protected or key in self._probation or key in self._window

    def hit(self, key: Key) -> None:
        """Renew `key`; a use on probation protects it."""
        self._uses.add(key)
        if key in self._protected:
            self._protected.renew(key)
        elif key in self._probation:
            self._protected.push(key, self._probation.take(key))
            while self._protected.size > self._protected_max:
                self._probation.push(*self._protected.pop())
        else:
            self._window.renew(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Into the window; what leaves it goes on unopposed while the main part has room."""
        self._window.push(key, size)
        if self._window.size > self._window_max and self._probation.size + self._protected.size < self._main_max:
            self._fill_main()
        self._uses.add(key)

    def evict(self) -> Key:
        """The loser of the window's oldest entry and the main part's least recently used one."""
        main = self._probation or self._protected
        if not main:
            return self._window.pop()[0]
        if self._window.size < self._window_max:
            return main.pop()[0]
        candidate, victim = next(iter(self._window)), next(iter(main))
        if self._uses.estimate(candidate) <= self._uses.estimate(victim):
            return self._window.pop()[0]
        main.take(victim)
        self._probation.push(*self._window.pop())
        return victim

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        next(queue for queue in (self._protected, self._probation, self._window) if key in queue).take(key)

    def check(self) -> None:
        """Assert that no key is in two queues, and that protection is bounded."""
        queues = (self._window, self._probation, self._protected)
        assert len({key for queue in queues for key in queue}) == len(self)
        assert self._protected.size <= self._protected_max
        self._uses.check()
        for queue in queues:
            queue.check()

    def _fill_main(self) -> None:
        while self._window.size > self._window_max and self._probation.size + self._protected.size < self._main_max:
            self._probation.push(*self._window.pop())
        self._uses.ensure_room(len(self))
