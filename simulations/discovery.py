"""What mDNS does for nodes on one network in memory: each hears of all others a second later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..node.sightings import Announcement, Sighting


class InMemoryDiscovery:
    """One node's discovery (`sightings.Discovery`)."""

    DELAY_S = 1.0

    def __init__(self, lan: Lan, host: str) -> None:
        self._lan = lan
        self._host = host

    async def start(self, me: Announcement, found: Callable[[Sighting], None]) -> None:
        """Announce `me`, and hear the others."""
        self._lan.join(Sighting(me.id, me.boot, me.name, (self._host, me.peer_port)), found)

    async def stop(self) -> None:
        """Say goodbye."""
        self._lan.leave(self._host)


class Lan:
    """Who announces itself to whom."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[Sighting, Callable[[Sighting], None]]] = {}

    def join(self, me: Sighting, found: Callable[[Sighting], None]) -> None:
        """`me` is heard by all others, and hears them."""
        loop = asyncio.get_running_loop()
        for other, tell in self._heard.values():
            loop.call_later(InMemoryDiscovery.DELAY_S, found, other)
            loop.call_later(InMemoryDiscovery.DELAY_S, tell, me)
        self._heard[me.address[0]] = (me, found)

    def leave(self, host: str) -> None:
        """Nobody hears of `host` any more."""
        self._heard.pop(host, None)
