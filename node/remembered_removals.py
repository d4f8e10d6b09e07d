"""Removals remembered on disk: a device that was off while all the others restarted must not bring features back."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..protocol.errors import InvalidValue
from ..protocol.keys import DIGEST_BYTES, PACKED_KEY_BYTES
from .small_files import read_small_file, replace_small_file, set_aside

if TYPE_CHECKING:
    from .removals import Removals

FILE_BYTES_MAX = 2 * 1024 * 1024
# The file is written whole, 80 bytes for each removal: not each time that somebody removes something.
SAVE_EVERY_S = 10.0
# Without news too: when a device was last on is known by this file.
SIGN_OF_LIFE_S = 3600.0

_log = logging.getLogger(__name__)


class _Removal(msgspec.Struct, frozen=True, array_like=True):
    name: bytes
    stamp: int
    age_s: float


class _File(msgspec.Struct, frozen=True):
    saved_at: float
    removals: list[_Removal]


class RememberedRemovals:
    """The removals in one file. `path` None: nothing outlives the process."""

    def __init__(self, path: Path | None, wall: Callable[[], float]) -> None:
        """Reads `path`, a blocking call; one that cannot be used is set aside. `wall`: this machine's clock.

        The clock only tells how long the device was off, by which removals age; one that went back tells nothing.
        """
        self._path = path
        self._wall = wall
        self._found = _File(0.0, [])
        self._saved = 0
        self._save_at = 0.0
        self._failing = False
        self._saving = asyncio.Lock()
        self._sign_at = -math.inf
        self.off_s = 0.0
        """How long the device was off, as far as its clock tells."""
        if path is None:
            return
        try:
            content = read_small_file(path, FILE_BYTES_MAX)
            if content is not None:
                self._found = msgspec.msgpack.decode(content, type=_File)
                self.off_s = max(0.0, wall() - self._found.saved_at)
        except PermissionError as error:
            _log.warning("%s cannot be read: %s", path, error)
        except (OSError, msgspec.DecodeError) as error:
            set_aside(path, error)

    def tell(self, removals: Removals, now: float) -> None:
        """Have `removals` know what was known before the restart."""
        for removal in self._found.removals:
            if len(removal.name) not in (PACKED_KEY_BYTES, DIGEST_BYTES):
                continue
            try:
                removals.hear(removal.name, removal.stamp, max(0.0, removal.age_s) + self.off_s, now)
            except InvalidValue as error:
                _log.warning("%s: %s", self._path, error)
        self._found = _File(0.0, [])
        self._saved = removals.sum

    def has_news(self, removals: Removals, now: float) -> bool:
        """Whether something is to be written."""
        is_news = removals.sum != self._saved and now >= self._save_at
        return self._path is not None and (is_news or now >= self._sign_at)

    async def save(self, removals: Removals, now: float, *, at_once: bool = False) -> None:
        """Write what `removals` knows if that is news, off the event loop, and not too often. Never raises."""
        if self._path is None or not (at_once or self.has_news(removals, now)):
            return
        async with self._saving:
            self._save_at, self._sign_at = now + SAVE_EVERY_S, now + SIGN_OF_LIFE_S
            digest = removals.sum
            told = [_Removal(kept.name, kept.stamp, now - kept.since) for kept in removals.all()]
            content = msgspec.msgpack.encode(_File(self._wall(), told))
            try:
                await asyncio.to_thread(replace_small_file, self._path, content)
            except OSError as error:
                if not self._failing:  # once, not at each attempt
                    _log.warning("removals are not remembered: %s cannot be written (%s)", self._path, error)
                self._failing = True
                return
            self._failing = False
            self._saved = digest
