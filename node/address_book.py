"""Peers that were members once, remembered on disk: whom to dial after a restart where mDNS is blocked.

Only a peer that passed the handshake is written here. An entry is a hint all the same: it earns a handshake again.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from .small_files import read_small_file, replace_small_file, set_aside

# Each is dialled at a start, so more would only be slower; a node that finds one of them learns of the others from it.
PEERS_MAX = 256
FILE_BYTES_MAX = 512 * 1024
TEXT_CHARS_MAX = 255

_log = logging.getLogger(__name__)


class RememberedPeer(msgspec.Struct, frozen=True):
    """Where a peer was last reached. `address` is host and port for peers; `boot` is the boot that was met there."""

    id: str
    name: str
    address: tuple[str, int]
    boot: str

    def __post_init__(self) -> None:
        host, port = self.address
        for text in (self.id, self.name, self.boot, host):
            if len(text) > TEXT_CHARS_MAX or not text.isprintable():
                raise ValueError(f"{text[:80]!a}: expected at most {TEXT_CHARS_MAX} characters that print")
        if not self.id or not host or not 0 < port < 65536:
            raise ValueError(f"no peer can be dialled with id {self.id!a} at {host!a}, port {port}")


class _File(msgspec.Struct, frozen=True):
    """What `peers.json` holds, the peer met longest ago first."""

    peers: list[RememberedPeer]


class AddressBook:
    """The last `PEERS_MAX` peers that were met. `path` None: nothing outlives the process."""

    def __init__(self, path: Path | None) -> None:
        """Reads `path`, a blocking call. A file that cannot be used is set aside: the book is empty then."""
        self._path = path
        self._peers: dict[str, RememberedPeer] = {}
        self._changed = False
        self._failing = False
        self._saving = asyncio.Lock()
        if path is None:
            return
        try:
            content = read_small_file(path, FILE_BYTES_MAX)
            peers = [] if content is None else msgspec.json.decode(content, type=_File).peers
        except PermissionError as error:
            _log.warning("%s cannot be read: %s", path, error)
        except (OSError, msgspec.DecodeError) as error:
            set_aside(path, error)
        else:
            for peer in peers:
                self.remember(peer)
            self._changed = False

    def peers(self) -> list[RememberedPeer]:
        """All remembered peers, the one met last first."""
        return list(reversed(self._peers.values()))

    def remember(self, peer: RememberedPeer) -> None:
        """Put the peer first, and drop the one met longest ago when there are more than `PEERS_MAX`."""
        self._changed |= self._peers.pop(peer.id, None) != peer
        self._peers[peer.id] = peer
        if len(self._peers) > PEERS_MAX:
            del self._peers[next(iter(self._peers))]

    @property
    def has_news(self) -> bool:
        """Whether something is to be written."""
        return self._changed and self._path is not None

    async def save(self) -> bool:
        """Write the book if it changed since, off the event loop; whether the disk holds it now. Never raises.

        A change of order alone is not worth the wear of an SD card.
        """
        if self._path is None:
            return False
        async with self._saving:
            if not self._changed:
                return True
            content = msgspec.json.format(msgspec.json.encode(_File(list(self._peers.values()))))
            self._changed = False
            try:
                await asyncio.to_thread(replace_small_file, self._path, content)
            except OSError as error:
                self._changed = True
                if not self._failing:  # once, not at each attempt
                    _log.warning("peers are not remembered: %s cannot be written (%s)", self._path, error)
                self._failing = True
                return False
            self._failing = False
            return True
