"""Fetches in the background what the forecasts name. Decides nothing, and is never waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from .prefetch import Prefetcher
from .tasks import Tasks

# At a time: half of what a disk reads at once, so that a request finds room.
FETCHES_MAX = 2


class Prefetching:
    """The fetches under way, from the first request to `close`."""

    def __init__(
        self,
        prefetcher: Prefetcher[bytes],
        *,
        fetch: Callable[[bytes], Awaitable[int]],
        is_held: Callable[[bytes], bool],
        now: Callable[[], float],
        hour: Callable[[], int],
    ) -> None:
        """`fetch` brings a key into memory and says how many bytes it has, 0 where nobody has it. It does not raise."""
        self._prefetcher = prefetcher
        self._fetch = fetch
        self._is_held = is_held
        self._now = now
        self._hour = hour
        self._places = asyncio.Semaphore(FETCHES_MAX)
        self._tasks: Tasks[None] = Tasks()

    def asked(self, stream: str, key: bytes) -> None:
        """`stream` asks for `key`, which is not answered yet; what is fetched for that is fetched after it."""
        for named, forecast in self._prefetcher.seen(stream, key, self._now(), self._hour(), self._is_held):
            self._prefetcher.begun(named, forecast)
            self._tasks.start(self._bring(named))

    async def _bring(self, key: bytes) -> None:
        nbytes = 0
        try:
            async with self._places:
                nbytes = await self._fetch(key)
        finally:
            self._prefetcher.came(key, nbytes, self._now())

    def resized(self, memory_bytes: int) -> None:
        """Memory has another capacity now."""
        self._prefetcher.memory_bytes = memory_bytes

    def told(self) -> dict[str, Any]:
        """What became of it, for GET /v1/stats."""
        return {
            str(forecast): {**asdict(record), "pays": record.pays}
            for forecast, record in self._prefetcher.records.items()
        }

    async def close(self) -> None:
        """Nothing is fetched any more."""
        await self._tasks.close()
