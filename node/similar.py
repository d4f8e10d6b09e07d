"""What a node holds that is like what it asks for: the features that the same stream asked for before. Pure.

Frames of one camera follow on each other, and so do the requests of one stream. A holder that is told what there is
already may send the difference (`protocol/delta.py`).
"""

from __future__ import annotations

from collections import OrderedDict

from ..protocol.keys import DIGEST_BYTES

STREAMS_MAX = 1024
# Keys that were asked for lately, and what their streams had before: a question is on its way for seconds.
ASKED_MAX = 1024


class Similar:
    """The key before each that was asked for lately; bounded, the oldest go first."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, bytes] = OrderedDict()
        self._before: OrderedDict[bytes, bytes] = OrderedDict()

    def asked(self, stream: str, key: bytes) -> None:
        """`stream` asks for `key`."""
        before = self._last.pop(stream, None)
        self._last[stream] = key
        if len(self._last) > STREAMS_MAX:
            self._last.popitem(last=False)
        if before is None or before == key or before[DIGEST_BYTES:] != key[DIGEST_BYTES:]:  # another encoder's
            return
        self._before.pop(key, None)
        self._before[key] = before
        if len(self._before) > ASKED_MAX:
            self._before.popitem(last=False)

    def to(self, key: bytes) -> bytes | None:
        """The key whose features are likely to be like those of `key`."""
        return self._before.get(key)
