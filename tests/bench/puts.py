"""What a node does with features that keep coming when its memory is full: it receives, checks, keeps and evicts.

    python -m tests.bench.puts [--memory SIZE] [--eviction POLICY] [--rounds N] [--round-s S]

One connection, from another core on loopback. The processor time of the server is what other load disturbs least.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from itertools import cycle
from statistics import median

import numpy as np
from edgecache.protocol import payload
from edgecache.protocol.keys import FeatureKey, digest_of
from edgecache.protocol.payload import Codec

from . import peer, servers
from .features import ENCODER, SHAPES

IN_FLIGHT = (1, 8)


def stream(shape: tuple[int, int], total_bytes: int) -> list[tuple[bytes, bytes]]:
    """Different features, `total_bytes` of them together; so that the client need not make them while it measures."""
    array = np.random.default_rng(0).standard_normal(shape, np.float32)
    made: list[tuple[bytes, bytes]] = []
    while total_bytes > 0:
        array[0, 0] = len(made) % 100 / 100
        one = payload.encode(array, FeatureKey(digest_of(b"%d" % len(made)), ENCODER), codec=Codec.INT8)
        made.append((one.key.packed, bytes(one.data)))
        total_bytes -= one.nbytes
    return made


async def measure(options: argparse.Namespace) -> None:
    """Print a line for each shape and number of puts in flight."""
    for name, shape in SHAPES.items():
        features = stream(shape, 160 * 1024 * 1024 if shape[0] > 1 else 32 * 1024 * 1024)
        flags = ("--eviction", options.eviction) if options.eviction else ()
        with servers.node(*flags, memory=options.memory) as node, servers.on_core(servers.CLIENT_CORE):
            client = await peer.connected(node.address)
            for key, value in features:
                await client.put(key, value)
            for in_flight in IN_FLIGHT:
                rates, used_us = [], []
                for _ in range(options.rounds):
                    before_s, started, done = node.processor_s(), time.perf_counter(), 0
                    coming = cycle(features)

                    async def put(ends: float = started + options.round_s) -> None:
                        nonlocal done
                        while time.perf_counter() < ends:
                            await client.put(*next(coming))  # noqa: B023 - run before the next round begins
                            done += 1

                    await asyncio.gather(*(put() for _ in range(in_flight)))
                    rates.append(done / (time.perf_counter() - started))
                    used_us.append((node.processor_s() - before_s) / done * 1e6)
                size = len(features[0][1])
                print(
                    f"put {name} ({size} bytes), {in_flight} in flight: {median(rates):,.0f}/s, "
                    f"{median(rates) * size / 1e6:,.0f} MB/s, server {median(used_us):.1f} µs each",
                    flush=True,
                )
            client.close()


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.puts", description=__doc__)
    parser.add_argument("--memory", default="64MiB", metavar="SIZE", help="of the node (default: 64MiB)")
    parser.add_argument("--eviction", default="", metavar="POLICY", help="of the node (default: its own)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--round-s", type=float, default=0.5)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
