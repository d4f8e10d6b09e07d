"""W-TinyLFU: what leaves a small window stays only if it is used more often than what would have to go for it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic

from xxhash import xxh3_64_intdigest

from .frequency_sketch import FrequencySketch, key_digest
from .policy import NO_FACTS, Facts, Key

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
        self._uses = FrequencySketch()
        # By key the size, the least recently used first; and the sums of the sizes.
        self._window: OrderedDict[Key, int] = OrderedDict()
        self._probation: OrderedDict[Key, int] = OrderedDict()
        self._protected: OrderedDict[Key, int] = OrderedDict()
        self._window_size = self._probation_size = self._protected_size = 0
        self.resize(capacity)

    def __len__(self) -> int:
        return len(self._window) + len(self._probation) + len(self._protected)

    def __contains__(self, key: object) -> bool:
        return key in self._protected or key in self._probation or key in self._window

    def hit(self, key: Key) -> None:
        """Renew `key`; a use on probation protects it."""
        self._uses.add(xxh3_64_intdigest(key) if isinstance(key, bytes) else key_digest(key))
        if key in self._protected:
            self._protected.move_to_end(key)
        elif key in self._probation:
            self._protected[key] = size = self._probation.pop(key)
            self._probation_size -= size
            self._protected_size += size
            self._bound_protected()
        else:
            self._window.move_to_end(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Into the window; what leaves it goes on unopposed while the main part has room."""
        self._window[key] = size
        self._window_size += size
        if self._window_size > self._window_max and self._probation_size + self._protected_size < self._main_max:
            self._fill_main()
        self._uses.add(xxh3_64_intdigest(key) if isinstance(key, bytes) else key_digest(key))

    def evict(self) -> Key:
        """The loser of the window's oldest entry and the main part's least recently used one."""
        main = self._probation or self._protected
        if not main:
            return self._pop_window()
        victim = next(iter(main))
        if self._window_size >= self._window_max:
            candidate = next(iter(self._window))
            counts, mask = self._uses.counts, self._uses.mask
            if isinstance(candidate, bytes) and isinstance(victim, bytes):  # as `key_digest` would, for fewer calls
                one, two = xxh3_64_intdigest(candidate), xxh3_64_intdigest(victim)
            else:
                one, two = key_digest(candidate), key_digest(victim)
            if counts[one & mask] <= counts[two & mask]:
                return self._pop_window()
            self._probation[candidate] = size = self._window.pop(candidate)
            self._window_size -= size
            self._probation_size += size
        if main is self._protected:
            self._protected_size -= main.pop(victim)
        else:
            self._probation_size -= main.pop(victim)
        return victim

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        if key in self._protected:
            self._protected_size -= self._protected.pop(key)
        elif key in self._probation:
            self._probation_size -= self._probation.pop(key)
        else:
            self._window_size -= self._window.pop(key)

    def resize(self, capacity: int) -> None:
        """New shares; what is protected no longer goes on probation."""
        held = self._window_size + self._probation_size + self._protected_size
        if held > capacity:
            self._uses.shrink(len(self) * capacity // held)
        self._window_max = max(1.0, WINDOW_SHARE * capacity)
        self._main_max = capacity - self._window_max
        self._protected_max = PROTECTED_SHARE * self._main_max
        self._bound_protected()

    def check(self) -> None:
        """Assert that no key is in two queues, that the sums are the sums, and that protection is bounded."""
        queues = (self._window, self._probation, self._protected)
        sizes = [self._window_size, self._probation_size, self._protected_size]
        assert len({key for queue in queues for key in queue}) == len(self)
        assert [sum(queue.values()) for queue in queues] == sizes
        assert self._protected_size <= self._protected_max
        self._uses.check()

    def _pop_window(self) -> Key:
        key, size = self._window.popitem(False)
        self._window_size -= size
        return key

    def _bound_protected(self) -> None:
        while self._protected_size > self._protected_max:
            key, size = self._protected.popitem(False)
            self._probation[key] = size
            self._protected_size -= size
            self._probation_size += size

    def _fill_main(self) -> None:
        while self._window_size > self._window_max and self._probation_size + self._protected_size < self._main_max:
            key, size = self._window.popitem(False)
            self._probation[key] = size
            self._window_size -= size
            self._probation_size += size
        self._uses.ensure_room(len(self))
