"""What happened in a run: who answered each request and how soon, and what meters showed at the end of each hour."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .scenario import Scenario
from .workloads.requests import Requests


class Answer(IntEnum):
    """Who had the features."""

    MEMORY = 0
    DISK = 1
    PEER = 2
    CLOUD = 3
    ENCODER = 4
    FAILED = 5
    """Nobody: the encoder had too much to do."""
    DOWN = 6
    """The device was off, and so was whoever would have asked."""


@dataclass(frozen=True, slots=True)
class Meter:
    """What was counted from the first request on."""

    encodes: int = 0
    lan_sent: int = 0
    """Bytes that devices sent each other."""
    lan_received: int = 0
    uplink_up: int = 0
    """Bytes from the site to the cloud."""
    uplink_down: int = 0
    store_usd: float = 0.0
    """For the cloud's object store."""

    def since(self, before: Meter) -> Meter:
        """What came between the two."""
        return Meter(*(getattr(self, name) - getattr(before, name) for name in Meter.__slots__))


@dataclass(slots=True, eq=False)
class Record:
    """What happened, request by request, and what was counted. Times are seconds from the first request on."""

    scenario: Scenario
    requests: Requests
    answers: NDArray[np.int8]
    latencies: NDArray[np.float64]
    encodes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """By device."""
    bytes_sent: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """By device, to other devices."""
    bytes_received: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    meters: list[Meter] = field(default_factory=list)
    """At the end of each hour, and of the run."""
    evictions: int = 0
    fetched_ahead: int = 0
    """Features that devices fetched before anybody asked for them (`node/prefetch.py`), since each was last started."""
    fetched_in_time: int = 0
    """Those of them that were asked for then."""
