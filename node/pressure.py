"""How much the memory store should hold now. Pure: told what memory there is and who has it, it names a capacity.

A cache is what a device can do without. So it takes what its user gave it, and gives back before anything else on the
device is short: before the kernel kills somebody, and before it evicts the pages of programs that run. A full store is
no reason to give anything back (watermarks on the store's own fill leave a quarter of it empty, and cost 1.7 points of
hit ratio against plain LRU); what the device has left is.

Of each `Bound`, the machine's memory and the cgroups' limits that this process lives under, there are three marks:

      80 %   below, a store that has shrunk grows back, up to this mark and by a twentieth a reading
      90 %   a store that shrinks goes on until here, by a tenth of what it was given a reading
      95 %   above, it shrinks; and it never takes more than to here

Between the first and the last nothing changes, so that what comes and goes each minute does not move it to and fro.

What is not filled yet is promised as well: a store of 1 GiB in a cgroup of 512 MiB has no more than fits there from the
first reading on, and no reading must come in time to stop it.

Some programs are stalled before any of that shows: the kernel throttles who is above memory.high, and looks for pages
in vain where most of the page cache is in use. It counts the time (pressure stall information). That time counts here
only where a bound is past its first mark: somebody who thrashes in a cgroup of his own is not helped by us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GROWS_BELOW = 0.80
SHRINKS_TO = 0.90
SHRINKS_ABOVE = 0.95
# Shares of what the store was given.
GROWTH = 0.05
BATCH = 0.10
# What is left to it at the worst, for as long as there is so much: the tenth that its policy thinks most of.
LEAST = 0.10
# Of the last 10 s, so much was spent waiting for memory by somebody; without pressure it is 0.
STALLED_SHARE_MAX = 0.10
CALM_SHARE_MAX = 0.01
STALL_WINDOW_S = 10.0
# A reading takes 0.2 ms. A program that allocates 100 MB/s gets from the first mark of 1 GiB to the last in 1.6 s.
READ_EVERY_S = 1.0
READ_EVERY_NEAR_S = 0.25


@dataclass(frozen=True, slots=True)
class Bound:
    """So much memory there is for somebody, and so much of it cannot be had without anybody's giving something up."""

    limit_bytes: int
    used_bytes: int

    def left_below(self, mark: float) -> int:
        """Bytes that may be taken until that share of the limit is used; below 0 if more is."""
        return int(self.limit_bytes * mark) - self.used_bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """What could be read of the memory that this process may use."""

    bounds: Sequence[Bound]
    stalled_share: float = 0.0
    """Of the last 10 s, during which at least one task waited for memory."""

    def left_below(self, mark: float) -> int | None:
        """Bytes until the first of the bounds has that share used; None when none is known."""
        return min((bound.left_below(mark) for bound in self.bounds), default=None)


class Pressure:
    """The capacity of a store that was given `given_bytes`, by the readings so far."""

    def __init__(self, given_bytes: int) -> None:
        self.given_bytes = given_bytes
        self.capacity_bytes = given_bytes
        self.is_near = False
        """Whether some bound is past its first mark."""
        self._is_shrinking = False
        self._stalled_at = -STALL_WINDOW_S

    @property
    def read_again_in_s(self) -> float:
        """When the next reading is due."""
        return READ_EVERY_NEAR_S if self.is_near else READ_EVERY_S

    def give(self, given_bytes: int) -> int:
        """The user gives another number of bytes; the capacity until the next reading."""
        self.given_bytes = given_bytes
        self.capacity_bytes = given_bytes
        return given_bytes

    def read(self, now: float, reading: Reading, resident_bytes: int) -> int:
        """The capacity from now on, of a store that takes `resident_bytes` now."""
        until_near = reading.left_below(GROWS_BELOW)
        until_shrinking = reading.left_below(SHRINKS_ABOVE)
        until_target = reading.left_below(SHRINKS_TO)
        if until_near is None or until_shrinking is None or until_target is None:
            self.capacity_bytes = self.given_bytes
            return self.capacity_bytes
        self.is_near = until_near < 0
        least = int(LEAST * self.given_bytes)
        batch = int(BATCH * self.given_bytes)
        self._is_shrinking = until_target < 0 and (self._is_shrinking or until_shrinking < 0)
        if self._is_shrinking:
            evicted_to = min(self.capacity_bytes, resident_bytes) - batch
            self._shrink(max(least, evicted_to, resident_bytes + until_target))
        elif resident_bytes + until_shrinking < self.capacity_bytes:  # promised more than there is
            self._shrink(max(least, resident_bytes + max(0, until_target)))
        elif self.is_near and reading.stalled_share > STALLED_SHARE_MAX:
            if now - self._stalled_at >= STALL_WINDOW_S:  # the next reading tells of the same stall
                self._stalled_at = now
                self._shrink(max(least, min(self.capacity_bytes, resident_bytes) - batch))
        elif reading.stalled_share <= CALM_SHARE_MAX:
            grown = min(self.capacity_bytes + int(GROWTH * self.given_bytes), resident_bytes + until_near)
            self.capacity_bytes = max(self.capacity_bytes, min(self.given_bytes, grown))
        return self.capacity_bytes

    def _shrink(self, capacity_bytes: int) -> None:
        self.capacity_bytes = min(self.capacity_bytes, capacity_bytes)
