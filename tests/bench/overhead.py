"""What a process grows by for a memory tier full of small features: bookkeeping is memory too.

    python -m tests.bench.overhead [--memory SIZE] [--eviction POLICY] [--low BYTES] [--high BYTES]

A real store on a real arena, without a node, is filled with entries of `low` to `high` bytes until 20,000 were evicted.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from edgecache.node.config import parse_size
from edgecache.node.eviction.policies import POLICIES, POLICY_USUAL
from edgecache.node.store.arena import Arena
from edgecache.node.store.memory import MemoryStore
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Codec, Compression, Payload

ENCODER = EncoderIdentity.declared("bench", "1")
EVICTIONS = 20_000


def resident_bytes() -> int:
    """What this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    """Fill, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead", description=__doc__)
    parser.add_argument("--memory", type=parse_size, default=64 * 1024 * 1024, metavar="SIZE", help="default: 64MiB")
    parser.add_argument("--eviction", choices=POLICIES, default=POLICY_USUAL, help=f"default: {POLICY_USUAL}")
    parser.add_argument("--low", type=int, default=800)
    parser.add_argument("--high", type=int, default=1600)
    options = parser.parse_args()
    rng, blank = random.Random(1), bytes(options.high)
    before = resident_bytes()
    arena = Arena(options.memory)
    store = MemoryStore(options.memory, POLICIES[options.eviction](options.memory), arena)
    while store.evictions < EVICTIONS:
        data = memoryview(blank)[: rng.randrange(options.low, options.high + 1)]
        key = FeatureKey(rng.randbytes(32), ENCODER)
        store.put(Payload(data, key, Codec.INT8, Compression.NONE, 1, 1, 1.0, 0, 0))
    grew = resident_bytes() - before
    each = (grew - arena.resident_bytes) / len(store)
    print(
        f"{options.eviction}: {len(store)} entries in {options.memory / 2**20:.0f} MiB; the process grew by "
        f"{grew / 2**20:.1f} MiB, {grew / options.memory:.3f} of that; {each:.0f} bytes for each besides its pages"
    )


if __name__ == "__main__":
    main()
