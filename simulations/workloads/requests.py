"""Requests in the order of their time, and what workloads are made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...protocol.errors import InvalidValue

HOUR_S = 3600.0
REQUESTS_MAX = 20_000_000
"""Of one run: their arrays take a gigabyte, and answering them days."""
_PART_BITS = 26


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """At `times[i]` seconds, ascending, device `devices[i]` needs the features of image `images[i]`."""

    times: NDArray[np.float64]
    devices: NDArray[np.int64]
    images: NDArray[np.int64]
    digests: Sequence[bytes] | None = field(default=None)
    """Of each image, where they are known; else they are made up."""
    sizes: NDArray[np.int64] | None = field(default=None)
    """Bytes of each image's file, 0 where that is not known; None where none is."""

    def __len__(self) -> int:
        return len(self.times)

    def digest(self, image: int) -> bytes:
        """The SHA-256 digest of an image."""
        return self.digests[image] if self.digests is not None else sha256(b"image %d" % image).digest()


class Workload(Protocol):
    """An invented day: its parameters are its fields."""

    def requests(self, devices: int, hours: float, rng: np.random.Generator) -> Requests:
        """What `devices` ask for in `hours`; the same for the same random numbers."""


def in_order(times: NDArray[np.float64], devices: NDArray[np.int64], images: NDArray[np.int64]) -> Requests:
    """Requests sorted by time, then device; images numbered from 0 by first use."""
    order = np.lexsort((devices, times))
    _, first, numbers = np.unique(images[order], return_index=True, return_inverse=True)
    by_first_use = np.empty(len(first), np.int64)
    by_first_use[np.argsort(first)] = np.arange(len(first))
    return Requests(times[order], devices[order], by_first_use[numbers])


def arrivals(
    rng: np.random.Generator, devices: int, hours: float, per_hour: Callable[[float], float]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times and devices of Poisson arrivals, `per_hour(hour)` on average at each device; not sorted."""
    times, of = [], []
    lengths_h = [min(1.0, hours - hour) for hour in range(int(np.ceil(hours)))]
    bounded(devices * sum(per_hour(hour) * length_h for hour, length_h in enumerate(lengths_h)))
    for hour, length_h in enumerate(lengths_h):
        counts = rng.poisson(per_hour(hour) * length_h, devices)
        of.append(np.repeat(np.arange(devices), counts))
        times.append((hour + rng.random(int(counts.sum())) * length_h) * HOUR_S)
    return np.concatenate(times), np.concatenate(of)


def zipf(rng: np.random.Generator, items: int, exponent: float, count: int) -> NDArray[np.int64]:
    """`count` of the ranks 0 to `items` - 1, rank r with a weight of 1 / (r + 1) ^ exponent."""
    shares = np.cumsum(1 / np.arange(1, items + 1) ** exponent)
    ranks: NDArray[np.int64] = np.searchsorted(shares, rng.random(count) * shares[-1]).astype(np.int64)
    return ranks


def opening_hours(per_hour: float, opens: float, closes: float) -> Callable[[float], float]:
    """`per_hour` while it is open, a fiftieth of that at night; hours begin at 0 o'clock and go round each day."""
    return lambda hour: per_hour if opens <= hour % 24 < closes else per_hour / 50


def bounded(requests: float) -> None:
    """InvalidValue when so many would be made."""
    if requests > REQUESTS_MAX:
        raise InvalidValue(f"{requests:,.0f} requests, at most {REQUESTS_MAX:,}: fewer devices, hours or an hour")


def numbered(*parts: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """One number for each combination of up to three parts. InvalidValue where two would get the same one."""
    number = np.asarray(parts[0], np.int64)
    bits = 63 - _PART_BITS * (len(parts) - 1)
    for part, below in zip(parts, (2**bits, *[2**_PART_BITS] * (len(parts) - 1)), strict=True):
        if np.size(part) and not 0 <= np.min(part) <= np.max(part) < below:
            raise InvalidValue(f"more than {below:,} things of one kind to tell from each other")
    for part in parts[1:]:
        number = number * 2**_PART_BITS + part
    return number
