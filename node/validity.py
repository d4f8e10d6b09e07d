"""Which features this node may keep and answer: of current versions, and removed by nobody. What is none any more goes.

Both are heard of late, sometimes after a split or a restart: so what comes in is checked (`Validity`), and what is
there already is looked through again (`Sweep`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .tasks import Tasks

if TYPE_CHECKING:
    from ..protocol.keys import EncoderIdentity
    from ..protocol.payload import Payload
    from .conversions import Conversions
    from .removals import Removals
    from .store.tiers import Tiers
    from .versions import Versions


class Validity:
    """Says what may be kept, by what this node has heard so far."""

    def __init__(self, versions: Versions, removals: Removals, conversions: Conversions) -> None:
        self._versions = versions
        self._removals = removals
        self._conversions = conversions

    def is_wanted(self, payload: Payload) -> bool:
        """Whether `payload` may be kept."""
        is_kept = self.is_kept(payload.key.encoder)
        return is_kept and self._versions.fits(payload) and self._removals.allows(payload)

    def is_kept(self, encoder: EncoderIdentity) -> bool:
        """Whether features of `encoder` are answered, or may stand in for what is."""
        return self._versions.is_current(encoder) or self._conversions.keeps(encoder, self._versions.is_current)


class Sweep:
    """Drops from one node's tiers what may not be kept any more."""

    def __init__(
        self, validity: Validity, store: Tiers, versions: Versions, removals: Removals, now: Callable[[], float]
    ) -> None:
        self._validity = validity
        self._store = store
        self._versions = versions
        self._removals = removals
        self._now = now
        self._reading: Tasks[None] = Tasks()

    def outdated(self) -> int:
        """Drop what is of no current version; how many entries went."""
        return self._store.remove_outdated(self._validity.is_kept, self._versions.known())

    def removed(self, names: Sequence[bytes]) -> None:
        """Drop what the removals of `names` are about, of which this node hears late; what is on disk alone, soon."""
        unread = [key for name in names for key in self._store.remove_unwanted(name)]

        async def read() -> None:  # and what may not be kept is dropped by that
            for key in unread:
                await self._store.read(key)

        if unread:
            self._reading.start(read())

    def restamped(self, names: Sequence[bytes], stamp: int) -> None:
        """A member had heard of later removals of `names` than this node, and gave this one a later stamp."""
        self.removed([name for name in names if self._removals.hear(name, stamp, 0.0, self._now())])

    async def close(self) -> None:
        """Read no more."""
        await self._reading.close()
