"""Measures how long a get with an image in hand takes, in encodes, while the network does its worst; on virtual time.

    python -m tests.bench.waits [--seeds N] [--gets N] [--encode-ms MS] [FAULT ...]

Five real nodes on the simulated network (`edgecache.simulations`), 151 KB of features for each image. Each node is
asked for one image after another, drawn from half as many as there are gets, as people walk from camera to camera. The
fault begins before the first get, when nothing is known of it, and stays. Asked are the nodes that are well; each
figure is over all gets of all seeds. The same seeds give the same figures everywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgecache.protocol.features import Source
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.links import LINKS, Link
from edgecache.simulations.modelled import DeviceEncoder, FeatureModel
from edgecache.simulations.virtual_time import run

NODES = 5
SEEDS = 10
GETS = 2000
ENCODE_MS = 60.0
WARM_GETS = 4  # that each node encodes before anything is measured: it knows what its encoder takes
GAP_S = 0.05  # from one get to the next on a node that waits for each
LOSSY = replace(LINKS["lan"], name="lossy", jitter_s=0.002, loss=1 - 0.9**0.5)  # a tenth, both ends together


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and which nodes are asked."""

    happens: Callable[[Cluster], None]
    asked: Sequence[int] = range(NODES)
    link: Link = LINKS["lan"]


def _nothing(cluster: Cluster) -> None:
    pass


def _split(cluster: Cluster) -> None:
    for one in ("n0", "n1"):
        for other in ("n2", "n3", "n4"):
            cluster.network.cut(one, other)


def _all(cluster: Cluster) -> None:
    cluster.network.freeze("n1")
    cluster.network.slow_down("n2", 0.3)


FAULTS: Mapping[str, Fault] = {
    "none": Fault(_nothing),
    "one stopped": Fault(lambda cluster: cluster.network.freeze("n1"), (0, 2, 3, 4)),
    "one 300 ms slow": Fault(lambda cluster: cluster.network.slow_down("n1", 0.3), (0, 2, 3, 4)),
    "10 % loss": Fault(_nothing, link=LOSSY),
    "split": Fault(_split),
    "all but the split": Fault(_all, (0, 3, 4), LOSSY),
}


@dataclass(slots=True)
class Waits:
    """Seconds of each get, by who answered."""

    by_source: dict[Source, list[float]] = field(default_factory=dict)
    encodes: int = 0
    images: int = 0

    def add(self, source: Source, seconds: float) -> None:
        """One more."""
        self.by_source.setdefault(source, []).append(seconds)

    def quantile(self, share: float, sources: Sequence[Source] = tuple(Source)) -> float:
        """Of the gets that these answered."""
        seconds = sorted(taken for source in sources for taken in self.by_source.get(source, ()))
        return seconds[min(int(share * len(seconds)), len(seconds) - 1)] if seconds else 0.0

    def count(self, source: Source) -> int:
        """How many gets it answered."""
        return len(self.by_source.get(source, ()))


async def measure(fault: Fault, seed: int, gets: int, encode_s: float, waits: Waits) -> None:
    """One run of it."""
    rng = random.Random(f"{seed}:waits")
    model = FeatureModel(197, 768)
    cluster = Cluster(
        NODES,
        seed=seed,
        memory_bytes=512 * 1024 * 1024,
        encoder=lambda index: DeviceEncoder(model, encode_s),
        link=lambda index: fault.link,
    )
    async with cluster:
        for index in range(NODES):
            for number in range(WARM_GETS):
                await _get(cluster, model, index, b"warm %d %d" % (index, number))
        fault.happens(cluster)
        images = gets // 2
        asked = [(rng.choice(fault.asked), rng.randrange(images)) for _ in range(gets)]
        before = _encoded(cluster)

        async def ask(index: int) -> None:
            for node, number in asked:
                if node == index:
                    source, seconds = await _get(cluster, model, index, b"image %d" % number)
                    waits.add(source, seconds)
                    await asyncio.sleep(GAP_S * rng.expovariate(1.0))

        await asyncio.gather(*(ask(index) for index in fault.asked))
        waits.encodes += _encoded(cluster) - before
        waits.images += len({number for _, number in asked})


async def _get(cluster: Cluster, model: FeatureModel, index: int, image: bytes) -> tuple[Source, float]:
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    found = await cluster.nodes[index].lookup.get(cluster.key(image), image)
    assert found is not None
    assert model.made(found.payload, cluster.key(image).digest)
    return found.source, loop.time() - asked_at


def _encoded(cluster: Cluster) -> int:
    return sum(len(encoder.encoded) for encoder in cluster.encoders if encoder is not None)


def main() -> None:
    """Print a table: a line for each fault, times in encodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--gets", type=int, default=GETS, help="for each seed")
    parser.add_argument("--encode-ms", type=float, default=ENCODE_MS)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)}".replace("%", "%%"))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    encode_s = options.encode_ms / 1000
    print("| fault | p50 | p99 | slowest | where encoded: p50, p99 | from peers: p50, p99 | encodes for images |")
    print("|---|---|---|---|---|---|---|")
    for name in options.faults or FAULTS:
        waits = Waits()
        for seed in range(options.seeds):
            run(measure(FAULTS[name], seed, options.gets, encode_s, waits))
        told = [
            f"{waits.quantile(share, sources) / encode_s:.3f}"
            for sources in (tuple(Source), (Source.ENCODER,), (Source.PEER,))
            for share in ((0.5, 0.99, 1.0) if len(sources) > 1 else (0.5, 0.99))
        ]
        print(
            f"| {name} | {told[0]} | **{told[1]}** | {told[2]} | {told[3]}, {told[4]} | {told[5]}, {told[6]} "
            f"| {waits.encodes} for {waits.images} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
