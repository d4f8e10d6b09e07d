"""The last word on every encoder, remembered on disk: features outlive the process there, so invalidations must too."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from ..protocol.errors import InvalidValue
from .small_files import read_small_file, replace_small_file, set_aside
from .versions import Current, Versions

FILE_BYTES_MAX = 64 * 1024

_log = logging.getLogger(__name__)


class _Current(msgspec.Struct, frozen=True):
    counter: int
    version: str


class RememberedVersions:
    """The invalidations in one file. `path` None: nothing outlives the process."""

    def __init__(self, path: Path | None) -> None:
        """Reads `path`, a blocking call. A file that cannot be used is set aside."""
        self._path = path
        self._saved: dict[str, Current] = {}
        self._saved_changes = 0  # as `Versions.changes` counts
        self._failing = False
        self._saving = asyncio.Lock()
        if path is None:
            return
        found: dict[str, _Current] = {}
        try:
            content = read_small_file(path, FILE_BYTES_MAX)
            found = {} if content is None else msgspec.json.decode(content, type=dict[str, _Current])
        except PermissionError as error:
            _log.warning("%s cannot be read: %s", path, error)
        except (OSError, msgspec.DecodeError) as error:
            set_aside(path, error)
        self._saved = {name: Current(said.counter, said.version) for name, said in found.items()}

    def tell(self, versions: Versions) -> None:
        """Have `versions` know what was known before the restart."""
        for name, current in self._saved.items():
            try:
                versions.hear_current(name, current)
            except InvalidValue as error:
                _log.warning("%s: %s", self._path, error)

    def has_news(self, versions: Versions) -> bool:
        """Whether `versions` knows something that is to be written."""
        return self._path is not None and versions.changes != self._saved_changes

    async def save(self, versions: Versions) -> bool:
        """Write what `versions` knows if that is news, off the event loop; whether the disk holds it. Never raises."""
        if self._path is None:
            return False
        async with self._saving:
            changes, current = versions.changes, versions.current()
            if current == self._saved:
                self._saved_changes = changes
                return True
            told = {name: _Current(said.counter, said.version) for name, said in current.items()}
            try:
                await asyncio.to_thread(replace_small_file, self._path, msgspec.json.format(msgspec.json.encode(told)))
            except OSError as error:
                if not self._failing:  # once, not at each attempt
                    _log.warning("invalidations are not remembered: %s cannot be written (%s)", self._path, error)
                self._failing = True
                return False
            self._failing = False
            self._saved, self._saved_changes = current, changes
            return True
