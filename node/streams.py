"""Numbers for the streams that ask, as an eviction policy wants them: few, and each its own. Pure."""

from __future__ import annotations

from collections import OrderedDict

from .eviction.use_forecast import STREAM_BINS

# As many as the forecast tells apart.
STREAMS_MAX = STREAM_BINS - 1


class Streams:
    """The streams that asked last, by name; one that is new takes the number of who has been silent for longest."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[str, int] = OrderedDict()

    def number(self, stream: str) -> int:
        """That of `stream`, which asks now: from 0 to `STREAMS_MAX` - 1."""
        number = self._numbers.pop(stream, None)
        if number is None:
            number = len(self._numbers)
            if number == STREAMS_MAX:
                _, number = self._numbers.popitem(last=False)
        self._numbers[stream] = number
        return number
