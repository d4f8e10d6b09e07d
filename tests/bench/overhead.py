"""What a process grows by for a memory tier full of small features: bookkeeping is memory too.

    python -m tests.bench.overhead [--memory SIZE] [--eviction POLICY] [--objects]

A real store on a real arena, without a node, is filled with features of one token, 768 to 1,536 values of INT8, and
with what a node tells its policy of each, until 20,000 were evicted. With --objects it is not looked at what the
process takes but at what is allocated, by tracemalloc, which does not see the pages of payloads.
"""

from __future__ import annotations

import argparse
import random
import tracemalloc
from pathlib import Path

import numpy as np
from edgecache.node.config import parse_size
from edgecache.node.eviction.policies import POLICIES, POLICY_USUAL
from edgecache.node.eviction.policy import Facts
from edgecache.node.store.arena import ENTRY_BYTES, Arena
from edgecache.node.store.memory import MemoryStore
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Codec

ENCODERS = [EncoderIdentity.declared("bench", str(dim)) for dim in (768, 1024, 1280, 1536)]
NOISE = np.random.default_rng(0).standard_normal((64, 1536), np.float32)
EVICTIONS = 20_000


def resident_bytes() -> int:
    """What this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    """Fill, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead", description=__doc__)
    parser.add_argument("--memory", type=parse_size, default=64 * 1024 * 1024, metavar="SIZE", help="default: 64MiB")
    parser.add_argument("--eviction", choices=POLICIES, default=POLICY_USUAL, help=f"default: {POLICY_USUAL}")
    parser.add_argument("--objects", action="store_true", help="count what is allocated, not what the process takes")
    options = parser.parse_args()
    rng = random.Random(1)
    warm = FeatureKey(rng.randbytes(32), ENCODERS[0])
    payloads.encode(NOISE[:1], warm, codec=Codec.INT8)  # what the first one has loaded is no entry's
    if options.objects:
        tracemalloc.start()
    before = resident_bytes()
    arena = Arena(options.memory)
    store = MemoryStore(options.memory, POLICIES[options.eviction](options.memory), arena)
    while store.evictions < EVICTIONS:
        encoder, token = rng.choice(ENCODERS), rng.randrange(len(NOISE))
        features = NOISE[token : token + 1, : int(encoder.version)]
        facts = Facts(cost_ms=rng.uniform(50, 100), stream=rng.randrange(8), hour=rng.randrange(24))
        store.put(payloads.encode(features, FeatureKey(rng.randbytes(32), encoder), codec=Codec.INT8), facts)
    if options.objects:
        each = tracemalloc.get_traced_memory()[0] / len(store)
        print(f"{options.eviction}: {len(store)} entries; {each:.0f} bytes allocated for each")
        return
    grew = resident_bytes() - before
    each = (grew - arena.resident_bytes) / len(store)
    print(
        f"{options.eviction}: {len(store)} entries in {options.memory / 2**20:.0f} MiB; the process grew by "
        f"{grew / 2**20:.1f} MiB, {grew / options.memory:.3f} of that; {each:.0f} bytes for each besides its pages, "
        f"where the store reckons with {ENTRY_BYTES}"
    )


if __name__ == "__main__":
    main()
