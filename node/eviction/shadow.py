"""Stores that hold no payloads: what each of several policies would have done, had it been in charge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic

from .frequency_sketch import key_digest
from .policy import NO_FACTS, EvictionPolicy, Facts, Key


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

    def __iter__(self) -> Iterator[Key]:
        return iter(self._sizes)

    def use(self, key: Key, size: int, facts: Facts = NO_FACTS) -> list[Key]:
        """Look `key` up, and take it in when it is not here and not larger than everything; what was evicted for it."""
        if key in self._sizes:
            self.hits += 1
            self._policy.hit(key)
            return []
        victims = []
        if size <= self._capacity:
            while self._size + size > self._capacity:
                victims.append(self.evict())
            self._policy.admit(key, size, facts)
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

    def resize(self, capacity: int) -> None:
        """Have another capacity, and evict what is too much for it."""
        self._capacity = capacity
        self._policy.resize(capacity)
        while self._size > capacity:
            self.evict()

    def check(self) -> None:
        """Assert that what is held is what the policy holds, and fits."""
        assert self._size == sum(self._sizes.values()) <= self._capacity
        assert len(self._policy) == len(self._sizes)
        self._policy.check()


class Shadows(Generic[Key]):
    """Some shadows that hear of the same sample of the keys, for the real store to ask which of them does best.

    The keys whose digests end in some zero bits are the sample, and the shadows' capacity is as many times smaller:
    a sample by key keeps the reuse distances, scaled (C. Waldspurger et al., "Efficient MRC construction with SHARDS",
    FAST 2015). All keys are in it at first. Each time that the real store holds more than twice `entries` of them, half
    of the sample leaves, and the shadows go on with the other half; so it grows no larger with the store. It never
    widens again, so what shrinks to a hundredth has shadows of a few entries, until it has grown back.

    Before the first eviction there is nothing to compare, and no shadow. Those who are in the sample by then are known
    as well, and come into the shadows as they are used. To fill the shadows with them at once, in the order of their
    last uses but without what was known of them, misled the forecast's: .2428 and not .2697 on cp-w92 at 10 %.
    """

    def __init__(self, capacity: int, makers: Sequence[Callable[[int], EvictionPolicy[Key]]], entries: int) -> None:
        self.shadows: tuple[Shadow[Key], ...] = ()
        self.uses = 0.0
        """How many the shadows heard of; they fade as the hits do."""
        self.known: dict[Key, tuple[int, Facts]] = {}
        """Size and facts of the entries in the sample that the real store holds."""
        self._capacity = capacity
        self._makers = makers
        self._entries = entries
        self._shift = 0  # so many zero bits

    @property
    def hits(self) -> list[float]:
        """Of each shadow."""
        return [shadow.hits for shadow in self.shadows]

    def admit(self, key: Key, size: int, facts: Facts) -> None:
        """`key`, which was not held, was used and is held from now on."""
        if not key_digest(key) & (1 << self._shift) - 1:
            self.known[key] = size, facts
            self.use(key)
            if len(self.known) > 2 * self._entries:
                self._halve()

    def use(self, key: Key) -> None:
        """`key`, which is `known`, was used."""
        if self.shadows:
            self.uses += 1
            for shadow in self.shadows:
                shadow.use(key, *self.known[key])

    def start(self) -> None:
        """Begin, empty; it does nothing a second time."""
        if not self.shadows:
            capacity = max(1, self._capacity >> self._shift)
            self.shadows = tuple(Shadow(make(capacity), capacity) for make in self._makers)

    def evicted(self, key: Key) -> None:
        """The real store does not hold `key` any more; what the shadows do is theirs."""
        self.known.pop(key, None)

    def remove(self, key: Key) -> None:
        """`key` is gone everywhere."""
        self.known.pop(key, None)
        for shadow in self.shadows:
            shadow.remove(key)

    def fade(self, share: float) -> None:
        """From now on old hits count so much."""
        self.uses *= share
        for shadow in self.shadows:
            shadow.hits *= share

    def resize(self, capacity: int) -> None:
        """The real store's capacity is another."""
        self._capacity = capacity
        for shadow in self.shadows:
            shadow.resize(max(1, capacity >> self._shift))

    def check(self) -> None:
        """Assert that the shadows are small, and hold nothing but the sample."""
        assert len(self.known) <= 2 * self._entries
        assert not self._out_of_sample(self.known)
        for shadow in self.shadows:
            shadow.check()
            assert not self._out_of_sample(shadow)

    def _halve(self) -> None:
        self._shift += 1
        for key in self._out_of_sample(self.known):
            del self.known[key]
        for shadow in self.shadows:
            for key in self._out_of_sample(shadow):
                shadow.remove(key)
            shadow.resize(max(1, self._capacity >> self._shift))
        self.fade(0.5)  # from now on there are half as many

    def _out_of_sample(self, keys: Iterable[Key]) -> list[Key]:
        return [key for key in keys if key_digest(key) & (1 << self._shift) - 1]
