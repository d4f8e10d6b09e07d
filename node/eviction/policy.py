"""What a store asks of an eviction policy.

A store that is full asks `evict` until there is room, then says `admit`. So a policy never refuses a newcomer; one that
thinks little of it names it at the next `evict`, which costs the room of one entry. That keeps every policy near its
paper, and the store free of a second question.

A policy holds keys and numbers, never payloads. It reads no clock: its time is the count of the uses that it was told
of. It is deterministic: the same calls give the same victims, whatever PYTHONHASHSEED says.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

# The node's keys are bytes, a trace's are integers.
Key = TypeVar("Key", bound=Hashable)


class Facts(NamedTuple):
    """What may be known of an entry beside its size. Each is optional: a policy does without what it is not told."""

    cost_ms: float | None = None  # what it took to make, which is what a miss will take
    sketch: int | None = None  # of its features, by `feature_sketch.py`: like features have like sketches
    stream: int | None = None  # who asked first: the number of a camera
    hour: int | None = None  # of the day when it came, from 0 to 23


NO_FACTS = Facts()


class EvictionPolicy(Protocol[Key]):
    """Orders the entries of one store. Sizes are in the unit of the store's capacity: bytes, or 1 for each entry."""

    def __len__(self) -> int:
        """How many entries are held."""

    def __contains__(self, key: object) -> bool:
        """Whether `key` is held; what is only remembered is not."""

    def hit(self, key: Key) -> None:
        """`key`, which is held, was used."""

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """`key`, which was not held, now is. What `facts` say, a policy may use or ignore."""

    def evict(self) -> Key:
        """Choose the entry that goes, hold it no longer, and name it. There is at least one."""

    def remove(self, key: Key) -> None:
        """`key`, which was held, is gone for reasons of its own: deleted, invalidated, replaced."""

    def resize(self, capacity: int) -> None:
        """The store's capacity is another from now on; where it holds more, it asks `evict` until it fits."""

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself, and that every bound holds."""


@runtime_checkable
class Ranking(Protocol):
    """A policy that can order everything that it holds."""

    def by_worth(self) -> Sequence[Any]:
        """The keys that are held, the most valuable first."""


@runtime_checkable
class Sketching(Protocol):
    """A policy that wants to know which features are alike: `Facts.sketch` of whatever it admits."""

    wants_sketches: bool


@runtime_checkable
class Telling(Protocol):
    """A policy that has something to say of itself."""

    def told(self) -> Mapping[str, Any]:
        """What it does and how that goes, for GET /v1/stats: `k`, `leader`, `regret` where there is such a thing."""
