"""`edgecache bench`: how long a user's own node takes to answer, by where it had the features.

    1. images that nobody has seen are encoded            encoder
    2. the same are asked for by their digests            memory, or disk
    3. others are encoded on another member, and asked
       for here, where the ring did not bring them        peer
    4. all of them are forgotten again

Each request is made alone, over HTTP, from this process: what is measured is what a program beside the node sees. Which
row an answer counts for, the answer says itself.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..protocol.errors import InvalidValue
from ..protocol.features import Features, Source
from ..protocol.keys import digest_of
from .client_nodes import NoNodeAnswers, Refused
from .client_show import table
from .image_bytes import bmp

if TYPE_CHECKING:
    from .client import Client

COUNT_MAX = 10_000
SIDE = 224  # pixels; what most encoders look at
HITS_EACH = 4  # times that each is asked for
# Without an encoder, features of this shape are put instead: a ViT-B's.
SHAPE = (196, 768)
NAME, VERSION = "edgecache/bench", "1"


@dataclass(slots=True)
class Times:
    """How long answers took, in milliseconds, and how large features were."""

    ms: dict[str, list[float]] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    note: str = ""
    """Why something was not measured."""

    async def take(self, ask: Callable[[], Awaitable[Features | None]]) -> None:
        """One request."""
        started = time.perf_counter()
        found = await ask()
        took_ms = (time.perf_counter() - started) * 1000
        source = "missing" if found is None else str(found.source)
        self.ms.setdefault(source, []).append(took_ms)
        if found is not None:
            self.shape = found.array.shape

    def told(self) -> dict[str, Any]:
        """For --json."""
        rows = {source: _summary(self.ms[source]) for source in (*Source, "missing") if source in self.ms}
        return {"features": list(self.shape), "answers": rows, "note": self.note}

    def lines(self) -> list[str]:
        """For people."""
        rows: list[tuple[str, ...]] = [("ANSWERED FROM", "REQUESTS", "P50 MS", "P95 MS", "MEAN MS")]
        for source, row in self.told()["answers"].items():
            rows.append((source, str(row["requests"]), *(f"{row[key]:.2f}" for key in ("p50_ms", "p95_ms", "mean_ms"))))
        shape = " × ".join(map(str, self.shape))
        lines = [*table(rows), f"one request at a time, over HTTP; features of {shape} arrive decoded to float32"]
        return [*lines, self.note] if self.note else lines


async def bench(cache: Client, elsewhere: Callable[[str], Client], count: int) -> Times:
    """Measure the node of `cache`; `elsewhere` makes a client of another. Refused, NoNodeAnswers, InvalidValue."""
    if not 2 <= count <= COUNT_MAX:
        raise InvalidValue(f"count {count}: expected 2 to {COUNT_MAX}")
    times = Times()
    made: list[bytes] = []
    try:
        await _measure(cache, elsewhere, count, times, made)
    finally:
        for digest in made:
            await cache.forget(digest)
    return times


async def _measure(
    cache: Client, elsewhere: Callable[[str], Client], count: int, times: Times, made: list[bytes]
) -> None:
    images = [_image() for _ in range(2 * count + 1)]
    first, near, far = images[0], images[1 : count + 1], images[count + 1 :]
    made.append(digest_of(first))
    try:
        await cache.encode(first)  # reads the model, and opens the connection
    except Refused as refusal:
        if refusal.status != 503:
            raise
        times.note = f"no encoder answers ({refusal.detail}): features of {SHAPE[0]} × {SHAPE[1]} were put instead"
        await _measure_without_encoder(cache, count, times, made)
        return
    for image in near:
        made.append(digest_of(image))
        await times.take(lambda image=image: cache.encode(image))  # type: ignore[misc]
    await _hits(cache, times, [digest_of(image) for image in near], HITS_EACH)
    other = await _another(cache)
    if other is None:
        times.note = "no other member can be asked over HTTP: nothing from a peer was measured"
        return
    async with elsewhere(other) as there:
        for image in far:
            made.append(digest_of(image))
            try:
                await there.encode(image)
            except (Refused, NoNodeAnswers) as error:
                times.note = f"nothing from a peer was measured: {error}"
                return
    await _hits(cache, times, [digest_of(image) for image in far], 1)
    if Source.PEER not in times.ms:
        times.note = "the ring keeps a copy of everything on this node: nothing came from a peer"


async def _measure_without_encoder(cache: Client, count: int, times: Times, made: list[bytes]) -> None:
    values = np.random.default_rng().standard_normal(SHAPE, dtype=np.float32)
    digests = [secrets.token_bytes(32) for _ in range(count)]
    for digest in digests:
        made.append(digest)
        await cache.put(digest, values, encoder=NAME, version=VERSION)
    for _ in range(HITS_EACH):
        for digest in digests:
            await times.take(lambda digest=digest: cache.get(digest, encoder=NAME, version=VERSION))  # type: ignore[misc]


async def _hits(cache: Client, times: Times, digests: Iterable[bytes], each: int) -> None:
    for digest in digests:
        for _ in range(each):
            await times.take(lambda digest=digest: cache.get(digest))  # type: ignore[misc]


async def _another(cache: Client) -> str | None:
    """The url of some other member."""
    cluster, urls = await cache.members()
    here = cluster["node"]["id"]
    return next((url for member, url in sorted(urls.items()) if member != here), None)


def _image() -> bytes:
    """Pixels that nobody has seen, smooth as a photograph is: coarse noise, enlarged."""
    coarse = np.random.default_rng(secrets.randbits(128)).integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    return bmp(coarse.repeat(8, axis=0).repeat(8, axis=1))


def _summary(ms: Sequence[float]) -> dict[str, float]:
    p95 = statistics.quantiles(ms, n=20)[-1] if len(ms) > 1 else ms[0]
    mean = statistics.fmean(ms)
    return {"requests": len(ms), "p50_ms": statistics.median(ms), "p95_ms": p95, "mean_ms": mean}
