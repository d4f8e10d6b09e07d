"""What outlives a node's process: versions, removals, where the others were, and the features on its disk.

The disk answers nothing before this node has heard what is current now: what it missed while it was down would be
answered from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from .address_book import AddressBook, RememberedPeer
from .removals import KEPT_S
from .store.warm_start import warm_memory

if TYPE_CHECKING:
    from .membership import Member
    from .remembered_removals import RememberedRemovals
    from .remembered_versions import RememberedVersions
    from .removals import Removals
    from .store.tiers import Tiers
    from .validity import Sweep
    from .versions import Versions

# After a start the disk answers nothing until a member has said what is current: mDNS brings one in 1.1 s, or nobody.
CATCH_UP_TIMEOUT_S = 2.0

_log = logging.getLogger(__name__)


class Lasting:
    """Tells a node what its last process knew, and writes down what its next one should."""

    def __init__(
        self,
        *,
        store: Tiers,
        sweep: Sweep,
        versions: Versions,
        removals: Removals,
        told_versions: RememberedVersions,
        told_removals: RememberedRemovals,
        address_book: AddressBook,
        expects_others: bool,
        now: Callable[[], float],
    ) -> None:
        """`expects_others`: whether there may be members of whom the address book knows nothing."""
        self.has_recalled = asyncio.Event()
        """Set when the disk answers."""
        self._store = store
        self._sweep = sweep
        self._versions = versions
        self._removals = removals
        self._told_versions = told_versions
        self._told_removals = told_removals
        self._address_book = address_book
        self._expects_others = expects_others
        self._now = now
        self._has_caught_up = asyncio.Event()
        told_versions.tell(versions)
        told_removals.tell(removals, now())

    def peers(self) -> list[RememberedPeer]:
        """Where the others were."""
        return self._address_book.peers()

    def met(self, member: Member) -> None:
        """`member` is alive, and there."""
        with contextlib.suppress(ValueError):  # a name that does not print: no name to write in a file
            self._address_book.remember(RememberedPeer(member.id, member.name, member.peer, member.boot))

    def caught_up(self) -> None:
        """A member has said all that it knows."""
        self._has_caught_up.set()

    async def recall(self) -> None:
        """The encoders of features on disk, and what is best kept in memory."""
        if self._store.disk is None:
            self.has_recalled.set()
            return
        self._store.is_disk_open = False
        await self._store.disk.tier.ready()
        peers = self.peers()
        if self._told_removals.off_s >= KEPT_S and peers:
            dropped = sum(map(self._store.remove, self._store.keys()))
            _log.warning("off for %d days: %d features are not trusted", KEPT_S // 86400, dropped)
        async for identity in self._store.encoders():
            self._versions.learn(identity)
        if len(self._store.disk.tier) and (self._expects_others or peers):
            # Another version may have become current, or something been removed, while this node was down.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_caught_up.wait(), CATCH_UP_TIMEOUT_S)
        self._sweep.outdated()
        self._sweep.removed(self._removals.names())
        await self._store.open_disk()
        self.has_recalled.set()
        if came := await warm_memory(self._store):
            _log.info("%d features are back in memory", came)

    def has_news(self, now: float) -> bool:
        """Whether something is to be written."""
        return (
            self._told_versions.has_news(self._versions)
            or self._told_removals.has_news(self._removals, now)
            or self._address_book.has_news
        )

    async def save_versions(self) -> None:
        """Write which versions are current."""
        await self._told_versions.save(self._versions)

    async def save(self, *, at_once: bool = False) -> None:
        """Write all that is news; `at_once` what is not written often, too."""
        await self.save_versions()
        await self._told_removals.save(self._removals, self._now(), at_once=at_once)
        await self._address_book.save()
