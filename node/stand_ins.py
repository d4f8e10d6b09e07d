"""Old features that stand in for new ones, on one node: read from its tiers, converted, answered, and renewed later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol.features import Source
from .aside import aside
from .conversions import Conversions, convert
from .found import Found
from .renewals import Renewals

if TYPE_CHECKING:
    from ..protocol.keys import FeatureKey
    from .store.tiers import Tiers


class StandIns:
    """Answers by conversion, and remembers what is to be encoded for it."""

    def __init__(self, conversions: Conversions, store: Tiers, name: str) -> None:
        self._conversions = conversions
        self._store = store
        self._name = name
        self.renewals = Renewals()

    async def find(self, key: FeatureKey, min_fidelity: float) -> Found | None:
        """The features of `key` as a map tells them from old ones that this node holds."""
        for old_key, conversion in self._conversions.sources(key, min_fidelity):
            source = Source.MEMORY
            old = self._store.get(old_key.packed)
            if old is None:
                source = Source.DISK
                old = await self._store.get_from_disk(old_key.packed)
            if old is None:
                continue
            # Multiplied out, 8 operations for a byte and thousands of columns: it takes as long as a larger payload.
            made = await aside(old.nbytes * 8, convert, old, conversion)
            if made is not None and made.fidelity >= min_fidelity:
                return Found(made, source, self._name, conversion.source)
        return None
