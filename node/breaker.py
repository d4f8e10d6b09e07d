"""Whether it is worth asking somebody who has failed lately. Pure.

A store or peer that is out costs each caller a timeout, and gets the load of everybody's retries the moment it is back.
After FAILURES_MAX failures in a row the breaker opens: nobody asks. When its pause is over one caller may try; if that
succeeds all may ask again, else the next pause is twice as long. (Nygard, "Release It!", 2007.)
"""

from __future__ import annotations

import random
from enum import StrEnum

# One lost packet is the weather; three answers missing in a row are not.
FAILURES_MAX = 3
PAUSE_FIRST_S = 1.0
PAUSE_MAX_S = 60.0
# A pause is spread over this share of itself, so that a fleet does not come back in one instant.
JITTER = 0.2


class BreakerState(StrEnum):
    """What callers may do."""

    CLOSED = "closed"
    """All ask."""
    OPEN = "open"
    """Nobody asks."""
    HALF_OPEN = "half-open"
    """One caller is trying."""


class Breaker:
    """`allows` is asked before each call, and each allowed call is ended by one `succeeded`, `failed` or `gave_up`."""

    def __init__(
        self,
        rng: random.Random,
        *,
        failures_max: int = FAILURES_MAX,
        pause_first_s: float = PAUSE_FIRST_S,
        pause_max_s: float = PAUSE_MAX_S,
    ) -> None:
        self.state = BreakerState.CLOSED
        self.times_opened = 0
        self._rng = rng
        self._failures_max = failures_max
        self._pause_first_s = pause_first_s
        self._pause_max_s = pause_max_s
        self._failures = 0
        self._pause_s = pause_first_s
        self._open_until = 0.0

    def allows(self, now: float) -> bool:
        """Whether to make a call now. In the half-open state only the one that is under way."""
        if self.state is BreakerState.OPEN and now >= self._open_until:
            self.state = BreakerState.HALF_OPEN
            return True
        return self.state is BreakerState.CLOSED

    def would_allow(self, now: float) -> bool:
        """The same as a question only: nothing changes, and no call has to follow."""
        return self.state is BreakerState.CLOSED or (self.state is BreakerState.OPEN and now >= self._open_until)

    def deadline(self) -> float:
        """When an open breaker lets the next caller try."""
        return self._open_until

    def succeeded(self) -> None:
        """A call was answered. "Not here" is an answer too."""
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._pause_s = self._pause_first_s

    def failed(self, now: float) -> None:
        """A call failed, or took too long."""
        self._failures += 1
        if self.state is BreakerState.HALF_OPEN:
            self._pause_s = min(2 * self._pause_s, self._pause_max_s)
        elif self.state is BreakerState.OPEN or self._failures < self._failures_max:
            return  # of a call that began before it opened: the pause is not lengthened by what is known already
        self.state = BreakerState.OPEN
        self.times_opened += 1
        self._open_until = now + self._pause_s * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def gave_up(self, now: float) -> None:
        """A call ended without telling anything, as when its caller went away. A trial is left to the next caller."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
            self._open_until = now
