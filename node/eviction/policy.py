"""What a store asks of an eviction policy."""

from __future__ import annotations

from typing import Protocol


class EvictionPolicy(Protocol):
    """Orders the entries of one store. Holds keys, never payloads."""

    def __len__(self) -> int: ...

    def hit(self, key: bytes) -> None:
        """`key`, which is held, was used."""

    def admit(self, key: bytes, size_bytes: int) -> None:
        """`key`, which was not held, now is."""

    def victim(self) -> bytes:
        """The key that should go next; it stays until `remove`. There is at least one."""

    def remove(self, key: bytes) -> None:
        """`key`, which was held, is gone: evicted or forgotten."""
