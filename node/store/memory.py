"""The memory tier: payloads by key, bounded in bytes; the eviction policy says who goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ...protocol.keys import DIGEST_BYTES

if TYPE_CHECKING:
    from ...protocol.payload import Payload
    from ..eviction.policy import EvictionPolicy

# What an entry costs besides its payload (measured: Payload, memoryview, key and the policy's own record).
ENTRY_OVERHEAD_BYTES = 700


class MemoryStore:
    """Payloads under their packed keys. `used_bytes` never exceeds `capacity_bytes`."""

    def __init__(self, capacity_bytes: int, policy: EvictionPolicy[bytes]) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.evictions = 0
        self.on_evict: Callable[[Payload], None] | None = None
        """Hears of each payload that goes to make room, once it is gone."""
        self._policy = policy
        self._payloads: dict[bytes, Payload] = {}
        self._encoders: Counter[bytes] = Counter()  # how many entries are of each, by its digest

    def __len__(self) -> int:
        return len(self._payloads)

    def __contains__(self, key: bytes) -> bool:
        return key in self._payloads

    def __iter__(self) -> Iterator[Payload]:
        return iter(tuple(self._payloads.values()))

    def get(self, key: bytes) -> Payload | None:
        """The payload of `key`, which counts as a use of it."""
        payload = self._payloads.get(key)
        if payload is not None:
            self._policy.hit(key)
        return payload

    def peek(self, key: bytes) -> Payload | None:
        """The payload of `key`, without counting a use."""
        return self._payloads.get(key)

    def put(self, payload: Payload) -> bool:
        """Keep `payload` instead of what its key had, evicting others; False when it is larger than the whole store."""
        size = payload.nbytes + ENTRY_OVERHEAD_BYTES
        key = payload.key.packed
        self.remove(key)
        if size > self.capacity_bytes:
            return False
        while self.used_bytes + size > self.capacity_bytes:
            evicted = self._drop(self._policy.evict())
            self.evictions += 1
            if self.on_evict is not None:
                self.on_evict(evicted)
        self._payloads[key] = payload
        self._encoders[key[DIGEST_BYTES:]] += 1
        self._policy.admit(key, size)
        self.used_bytes += size
        return True

    def remove(self, key: bytes) -> bool:
        """Forget `key`; False when it was not here."""
        if key not in self._payloads:
            return False
        self._policy.remove(key)
        self._drop(key)
        return True

    def keys_of_image(self, digest: bytes) -> list[bytes]:
        """Every key of the image `digest`, whichever encoder made the features."""
        return [key for encoder in self._encoders if (key := digest + encoder) in self._payloads]

    def check(self) -> None:
        """Assert that the bookkeeping agrees with what is held."""
        held = sum(payload.nbytes + ENTRY_OVERHEAD_BYTES for payload in self._payloads.values())
        assert self.used_bytes == held <= self.capacity_bytes, (self.used_bytes, held, self.capacity_bytes)
        assert len(self._policy) == len(self._payloads)
        assert self._encoders == Counter(key[DIGEST_BYTES:] for key in self._payloads)
        self._policy.check()

    def _drop(self, key: bytes) -> Payload:
        payload = self._payloads.pop(key)
        self.used_bytes -= payload.nbytes + ENTRY_OVERHEAD_BYTES
        encoder = key[DIGEST_BYTES:]
        self._encoders[encoder] -= 1
        if not self._encoders[encoder]:
            del self._encoders[encoder]
        return payload
