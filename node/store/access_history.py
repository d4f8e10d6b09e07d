"""Which entries were used lately, in order, so that a restart does not forget what was worth keeping. Pure.

Eviction policies differ in what they remember, but each is made by the same calls: so what is kept is the calls, and a
policy that is told them again is, but for what lies further back, the policy that was. Entries go by the sequence
numbers of their records, which outlive the process.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Iterator

import numpy as np
import xxhash

USES_MAX = 262_144
USE_BYTES_MAX = 9  # packed, where nothing can be compressed
# A use counts once in this time: of an entry that is asked for a thousand times a second the order says enough.
SAME_USE_S = 1.0

_MAGIC = b"ECHIST01"
_CHECKSUM_BYTES = 8


class AccessHistory:
    """The last `uses_max` uses, the oldest first, in 8 bytes each; where there are more, an eighth is forgotten."""

    def __init__(self, uses: Iterable[int] = (), uses_max: int = USES_MAX) -> None:
        self.uses_max = min(uses_max, USES_MAX)
        self._uses = array("q", uses)
        del self._uses[: -self.uses_max or len(self._uses)]
        self._lately: dict[int, None] = {}
        self._since = -SAME_USE_S

    def __iter__(self) -> Iterator[int]:
        return iter(self._uses)

    def __len__(self) -> int:
        return len(self._uses)

    def used(self, sequence: int, now: float) -> None:
        """The entry whose record has that number was used."""
        if now - self._since >= SAME_USE_S:
            self._lately.clear()
            self._since = now
        if sequence not in self._lately:
            self._lately[sequence] = None
            if len(self._uses) >= self.uses_max:
                del self._uses[: max(1, self.uses_max // 8)]
            self._uses.append(sequence)

    def packed(self) -> bytes:
        """The history in bytes: differences between numbers, compressed; 1 to 3 bytes a use."""
        uses = np.array(self._uses, "<i8")
        body = zlib.compress(np.diff(uses, prepend=np.int64(0)).tobytes(), 1)
        return _MAGIC + xxhash.xxh3_64_digest(body) + body

    def worth(self) -> dict[int, float]:
        """What each entry used lately is worth: a use counts half as much for each quarter of the history since."""
        half_life = max(1.0, len(self._uses) / 4)
        worth: dict[int, float] = {}
        for age, sequence in enumerate(reversed(self._uses)):
            worth[sequence] = worth.get(sequence, 0.0) + 2.0 ** (-age / half_life)
        return worth


def unpack_history(packed: bytes) -> list[int]:
    """The uses in what `packed` made; ValueError for anything else."""
    body_at = len(_MAGIC) + _CHECKSUM_BYTES
    body = packed[body_at:]
    if packed[: len(_MAGIC)] != _MAGIC or xxhash.xxh3_64_digest(body) != packed[len(_MAGIC) : body_at]:
        raise ValueError("not an access history, or not a whole one")
    inflating = zlib.decompressobj()
    try:
        content = inflating.decompress(body, USES_MAX * 8)
    except zlib.error as error:
        raise ValueError(f"access history does not unpack: {error}") from None
    if not inflating.eof or len(content) % 8:
        raise ValueError("access history of an odd length")
    uses: list[int] = np.cumsum(np.frombuffer(content, "<i8")).tolist()
    return uses
