"""What a full memory tier loses: the share of its capacity that holds no entry, for several mixes of sizes.

    python -m tests.bench.fragmentation [--memory SIZE] [--mix NAME] [--eviction POLICY]

A real store on a real arena, without a node. Keys come by Zipf .9; what is not there is put. When the store has been
filled three times over, each put is a sample of `1 - used / capacity`: what lies between entries and shares their
pages, the spare that is kept free for what arrives (a 64th), and room for less than an entry.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import time
from bisect import bisect
from collections.abc import Callable

import numpy as np
from edgecache.node.config import parse_size
from edgecache.node.eviction.policies import POLICIES, POLICY_USUAL
from edgecache.node.store.arena import Arena
from edgecache.node.store.memory import ENTRY_OVERHEAD_BYTES, MemoryStore
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Codec, Compression, Payload

from .report import Table

ENCODER = EncoderIdentity.declared("bench", "1")
ZIPF = 0.9
FILLED = 3
SAMPLES = 20_000
KB = 1000

Size = Callable[[random.Random], int]


def _log_uniform(low: int, high: int) -> Size:
    return lambda rng: int(math.exp(rng.uniform(math.log(low), math.log(high))))


def _changing(low: int, high: int) -> Size:
    """A size that is another one after each 5,000: the encoder was replaced by one of larger features, and again."""
    made = itertools.count()
    return lambda rng: low + (high - low) * (next(made) // 5000 % 8) // 7


MIXES: dict[str, Size] = {
    "151,504 bytes": lambda rng: 151_504,
    "100 to 200 KB": lambda rng: rng.randrange(100 * KB, 200 * KB),
    "1 KB to 1 MB, log-uniform": _log_uniform(KB, 1000 * KB),
    "0.5 to 32 KB, log-uniform": _log_uniform(500, 32 * KB),
    "512 to 4,096 bytes": lambda rng: rng.randrange(512, 4096),
    "3,000 or 151,504 bytes": lambda rng: rng.choice([3000, 151_504]),
    "0.6 to 12 KB, another each 5,000": _changing(600, 12 * KB),
    "20 to 400 KB, another each 5,000": _changing(20 * KB, 400 * KB),
}


def lost(
    memory_bytes: int, size: Size, eviction: str, rng: random.Random, *, is_changing: bool
) -> tuple[list[float], MemoryStore]:
    """The share that was lost at each put to a full store, and the store."""
    store = MemoryStore(memory_bytes, POLICIES[eviction](memory_bytes), Arena(memory_bytes))
    images = max(256, 4 * memory_bytes // int(np.mean([size(rng) for _ in range(1000)]) + ENTRY_OVERHEAD_BYTES))
    sizes = [size(rng) for _ in range(images)]
    keys = [FeatureKey(rng.randbytes(32), ENCODER) for _ in range(images)]
    weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, images + 1)))
    blank = bytes(1000 * KB)
    samples: list[float] = []
    put_bytes = 0
    while len(samples) < SAMPLES:
        image = bisect(weights, rng.random() * weights[-1])
        if store.get(keys[image].packed) is not None:
            continue
        if is_changing:
            sizes[image] = size(rng)
        data = memoryview(blank)[: sizes[image]]
        assert store.put(Payload(data, keys[image], Codec.INT8, Compression.NONE, 1, 1, 1.0, 0, 0))
        put_bytes += sizes[image]
        if put_bytes > FILLED * memory_bytes:
            samples.append(1 - store.utilisation)
            assert store.resident_bytes <= memory_bytes
    store.check()
    return samples, store


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fragmentation", description=__doc__)
    parser.add_argument("--memory", type=parse_size, default=64 * 1024 * 1024, metavar="SIZE", help="default: 64MiB")
    parser.add_argument("--mix", choices=MIXES, action="append", help="default: all")
    parser.add_argument("--eviction", choices=POLICIES, default="lru", help=f"default: lru; a node's: {POLICY_USUAL}")
    options = parser.parse_args()
    rows = []
    for name in options.mix or MIXES:
        started = time.monotonic()
        is_changing = "another each" in name
        samples, store = lost(options.memory, MIXES[name], options.eviction, random.Random(1), is_changing=is_changing)
        mean, p99, worst = np.mean(samples), np.quantile(samples, 0.99), max(samples)
        rows.append([name, *(f"{100 * share:.2f} %" for share in (mean, p99, worst)), f"{len(store):,}"])
        print(f"{name}: {rows[-1][1:]}, {time.monotonic() - started:.0f} s", flush=True)
    title = f"Share of {options.memory / 2**20:.0f} MiB that holds no entry; {options.eviction}, Zipf {ZIPF}"
    print(Table(title, ["sizes", "mean", "99th percentile", "worst", "entries"], rows).markdown())


if __name__ == "__main__":
    main()
