"""Who was turned away, in a log that a scan of the network cannot fill."""

from __future__ import annotations

PERIOD_S = 60.0
LINES_MAX = 10  # in each period


class Refusals:
    """Decides which refusals get a line: one for each host and reason in a minute, and no more than LINES_MAX."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()
        self._period_ends_at = 0.0
        self._untold = 0

    def line(self, now: float, host: str, reason: str, what: str = "no connection with") -> str | None:
        """What to write in the log for this one; None when it is only counted, for the next line to say."""
        if now >= self._period_ends_at:
            self._told.clear()
            self._period_ends_at = now + PERIOD_S
        if (host, reason) in self._told or len(self._told) >= LINES_MAX:
            self._untold += 1
            return None
        self._told.add((host, reason))
        more = f" (and {self._untold} refused since the last such line)" if self._untold else ""
        self._untold = 0
        return f"{what} {host}: {reason}{more}"
