"""Gives the memory store the capacity that there is memory for, in small steps. Decides nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from .pressure import Pressure, Reading
from .store.memory import MemoryStore

_log = logging.getLogger(__name__)


class Resizing:
    """One store, its pressure, and whoever reads it; without a reader only the user changes the capacity."""

    def __init__(self, memory: MemoryStore, read: Callable[[], Reading] | None) -> None:
        self.on_resized: Callable[[int], None] | None = None
        """Hears of each other capacity."""
        self.pressure = Pressure(memory.capacity_bytes)
        self._memory = memory
        self._read = read
        self._settling = asyncio.Lock()

    async def give(self, given_bytes: int) -> None:
        """The user gives it so many bytes; InvalidValue for more than it has addresses for."""
        self._resize(given_bytes, "resized")
        self.pressure.give(given_bytes)
        await self._settle()

    async def watch(self) -> None:
        """Follow the readings, until cancelled."""
        if self._read is None:
            return
        loop = asyncio.get_running_loop()
        was_short = False
        while True:
            pressure, memory = self.pressure, self._memory
            capacity_bytes = pressure.read(loop.time(), self._read(), memory.resident_bytes)
            is_short = capacity_bytes < pressure.given_bytes
            if is_short != was_short:
                was_short = is_short
                _log.info("memory for features: %d bytes of %d", capacity_bytes, pressure.given_bytes)
            if capacity_bytes != memory.capacity_bytes:
                self._resize(capacity_bytes, "pressure")
            await self._settle()  # what was being sent the last time may be gone by now
            await asyncio.sleep(pressure.read_again_in_s)

    def _resize(self, capacity_bytes: int, reason: str) -> None:
        self._memory.resize(capacity_bytes, reason)
        if self.on_resized is not None:
            self.on_resized(capacity_bytes)

    async def _settle(self) -> None:
        """Until the store is within its capacity; whoever waits for the event loop has his turn between the steps."""
        async with self._settling:
            while not self._memory.settle():
                if not len(self._memory):
                    return  # all that is left is being sent
                await asyncio.sleep(0)
