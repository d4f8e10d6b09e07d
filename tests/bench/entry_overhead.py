"""What an entry of the memory tier costs besides its payload: `python tests/bench/entry_overhead.py [POLICY...]`.

Fills a store of 20,000 entries over an arena, evicts as many again, and counts by tracemalloc, for each entry held,
everything that is allocated: the Payload and the view of its bytes, its key, the store's dictionary, what the arena
knows of it, and the policy's own record. The payloads' bytes lie in the arena, which tracemalloc does not see.
`ENTRY_BYTES` in `node/store/arena.py` is a little more: what a process grows by (`overhead.py`).
"""

from __future__ import annotations

import gc
import sys
import tracemalloc

import numpy as np
from edgecache.node.eviction.policies import POLICIES, POLICY_USUAL
from edgecache.node.store.arena import ENTRY_BYTES, Arena
from edgecache.node.store.memory import MemoryStore
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Payload

ENTRIES = 20_000
ENCODER = EncoderIdentity.declared("tiny", "1")
FEATURES = np.ones((2, 64), np.float32)


def payload(image: int) -> Payload:
    return payloads.encode(FEATURES, FeatureKey(image.to_bytes(32), ENCODER))


def measure(name: str) -> float:
    """Bytes for each entry held."""
    capacity = ENTRIES * (payload(0).nbytes + ENTRY_BYTES)
    arena = Arena(capacity)
    gc.collect()
    tracemalloc.start()
    store = MemoryStore(capacity, POLICIES[name](capacity), arena)
    for image in range(2 * ENTRIES):
        store.put(payload(image))
    gc.collect()
    allocated = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"{name:20} {len(store):,} entries, {allocated / len(store):.0f} bytes for each", flush=True)
    return allocated / len(store)


def main() -> None:
    most = max(measure(name) for name in sys.argv[1:] or ("lru", "lru-2", "adaptive-lru-k", POLICY_USUAL))
    print(f"at most {most:.0f}; the store reckons with {ENTRY_BYTES}")


if __name__ == "__main__":
    main()
