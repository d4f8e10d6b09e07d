"""A store that holds no payloads: what a policy would have done, had it been in charge."""

from __future__ import annotations

from typing import Generic

from .policy import EvictionPolicy, Key


class Shadow(Generic[Key]):
    """A policy that answers the same uses as the real one, and the hits that it would have had."""

    def __init__(self, policy: EvictionPolicy[Key], capacity: int) -> None:
        self.hits = 0.0  # whoever compares shadows lets the old ones fade
        self._policy = policy
        self._capacity = capacity
        self._sizes: dict[Key, int] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, key: object) -> bool:
        return key in self._sizes

    def use(self, key: Key, size: int) -> list[Key]:
        """Look `key` up, and take it in when it is not here and not larger than everything; what was evicted for it."""
        if key in self._sizes:
            self.hits += 1
            self._policy.hit(key)
            return []
        victims = []
        if size <= self._capacity:
            while self._size + size > self._capacity:
                victims.append(self.evict())
            self._policy.admit(key, size)
            self._sizes[key] = size
            self._size += size
        return victims

    def evict(self) -> Key:
        """Let the policy choose who goes."""
        key = self._policy.evict()
        self._size -= self._sizes.pop(key)
        return key

    def remove(self, key: Key) -> None:
        """Forget `key`, if it is here."""
        if key in self._sizes:
            self._policy.remove(key)
            self._size -= self._sizes.pop(key)

    def check(self) -> None:
        """Assert that what is held is what the policy holds, and fits."""
        assert self._size == sum(self._sizes.values()) <= self._capacity
        assert len(self._policy) == len(self._sizes)
        self._policy.check()
