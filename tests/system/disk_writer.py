"""Writes to a disk store until it is killed: `python -m tests.system.disk_writer DIR SEED GENERATION`.

What it puts is told by key and generation, so that whoever looks later knows every content that there can be. Each line
of standard output names what a flush has just made durable.
"""

from __future__ import annotations

import asyncio
import random
import sys
from hashlib import sha512
from pathlib import Path

from edgecache.node.eviction.lru import LRU
from edgecache.node.store.directory import RealDirectory
from edgecache.node.store.disk import READS_MAX, DiskStore
from edgecache.node.store.threads import RealThreads

CAPACITY_BYTES = 64 * 1024 * 1024
KEYS = 200


def key(number: int) -> bytes:
    """The packed key of that number."""
    return sha512(b"%d" % number).digest()


def content(number: int, generation: int) -> bytes:
    """What key `number` holds in that generation: 768 bytes or 150 KB that name both all over."""
    line = b"%d %d " % (number, generation)
    return (line * 80)[:768] if number % 4 == 0 else (line * 40_000)[: 150_000 + generation % 7]


def generation_of(number: int, found: memoryview) -> int | None:
    """Which generation of key `number` that is, whole; None if it is none."""
    words = bytes(found[:40]).split(b" ", 2)
    generation = int(words[1]) if len(words) == 3 and words[1].isdigit() else -1
    return generation if found == content(number, generation) else None


def store_in(path: Path) -> DiskStore:
    """The store of `path`, not started."""
    return DiskStore(
        lambda: RealDirectory(path), CAPACITY_BYTES, LRU, threads=RealThreads(READS_MAX), entries_max=10_000
    )


async def write(path: Path, rng: random.Random, generation: int) -> None:
    """Put generation after generation of random keys, and say now and then what is durable."""
    store = store_in(path)
    store.start()
    await store.ready()
    print("ready", flush=True)
    while True:
        numbers = rng.sample(range(KEYS), rng.randrange(1, 20))
        generation += 1
        for number in numbers:
            store.put(key(number), memoryview(content(number, generation)))
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * 0.02)
        elif all([await store.flush(key(number)) for number in numbers]):
            print(generation, *numbers, flush=True)


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), random.Random(sys.argv[2]), int(sys.argv[3])))
