"""This node's own list: which keys it holds, and a numbered log of what was added and removed, for the others. Pure.

The others keep a copy of the list (`directory.py`), each as it was at some version. Whoever is not far behind is told
what changed since: a key that came and went again is no change. Whoever is, or has none, is told the whole list.

A version names the boot in its upper bits, so that nobody takes the 100th change of one boot for that of another.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import xxhash

from ..protocol import fingerprints, messages
from ..protocol.datagrams import Changes
from ..protocol.messages import Keys
from .holdings import Holdings

_COUNT_BITS = 40
# What is remembered of what changed: 5 bytes each. Whoever missed more than that is told the whole list.
LOG_MAX = messages.CHANGES_MAX
# Keys of which something happened are looked at together, so many at the latest: one that is put again and again, or
# goes from memory to disk, has not changed.
TOUCHED_MAX = 1024
TOLD_MAX = messages.CHANGES_BYTES_MAX // fingerprints.FINGERPRINT_BYTES  # in one datagram
# A whole list that was made is told to the next who asks too, until so much of it has changed: a byte each that changed
# costs less than making 0.1 MB anew for each of 32 nodes after a start.
_WHOLE_AGE_SHARE = 16


def boot_of(version: int) -> int:
    """What a version says of the boot; equal for all versions of one boot."""
    return version >> _COUNT_BITS


class Journal:
    """What this node holds, and what of it changed."""

    def __init__(self, boot: str, is_held: Callable[[bytes], bool]) -> None:
        """`is_held` says of a packed key whether this node holds it now."""
        self._is_held = is_held
        self._touched: dict[bytes, None] = {}
        self._holdings = Holdings()
        self._boot = ((xxhash.xxh32_intdigest(boot.encode()) & 0x7FFFFE) | 1) << _COUNT_BITS
        self._count = 1  # version 0 is what nobody has
        self._log = array("I")
        self._added = bytearray()  # beside it: 1 added, 0 removed
        self._whole: tuple[int, int, bytes] | None = None  # count, number of keys, code

    def __len__(self) -> int:
        return len(self._holdings)

    def touch(self, key: bytes) -> None:
        """Something happened to `key`: it came, went, or did not do what was expected of it."""
        self._touched[key] = None
        if len(self._touched) >= TOUCHED_MAX:
            self.settle()

    def missed(self, key: bytes) -> None:
        """Somebody asked for `key` in vain. If it was led here by what this node has told, that is news."""
        if fingerprints.fingerprint(key) in self._holdings:
            self.touch(key)
            self.settle()  # at once: whoever asked does not believe it any more, should it come back

    def settle(self) -> int:
        """Note what has changed; the version of the list as it is now."""
        if not self._touched:
            return self._boot + self._count
        touched, self._touched = self._touched, {}
        for key in touched:
            fingerprint = fingerprints.fingerprint(key)
            if not self._is_held(key):
                if self._holdings.discard(fingerprint):
                    self._note(fingerprint, 0)
            elif len(self._holdings) < messages.HOLDINGS_MAX and self._holdings.add(fingerprint):
                self._note(fingerprint, 1)
        return self._boot + self._count

    def changes(self, since: int) -> Changes | None:
        """What changed since that version, or all of the list, if it fits a datagram; None if there is nothing to tell,
        or too much.
        """
        behind = self._behind(since)
        if behind == 0:
            return None
        if behind < 0 and len(self) <= TOLD_MAX:
            return Changes(0, fingerprints.listed(self._holdings.fingerprints()), b"")
        if not 0 < behind <= TOLD_MAX:
            return None
        added, removed = self._net(behind)
        return Changes(since, fingerprints.listed(added), fingerprints.listed(removed))

    def told(self, has: int) -> tuple[Keys, bytes]:
        """The answer to who has the list as of `has`: what changed since, or all of it, whichever is shorter."""
        version = self.settle()
        behind = self._behind(has)
        if behind >= 0 and behind * fingerprints.FINGERPRINT_BYTES <= fingerprints.packed_bytes(len(self)):
            added, removed = self._net(behind)
            blob = fingerprints.listed(added) + fingerprints.listed(removed)
            return Keys(has, version, len(added), len(removed)), blob
        if self._whole is None or (self._count - self._whole[0]) * _WHOLE_AGE_SHARE > len(self):
            held = self._holdings.fingerprints()
            self._whole = self._count, len(held), fingerprints.pack(held)
        count, keys, blob = self._whole
        return Keys(0, self._boot + count, keys, 0), blob

    def check(self) -> None:
        """Assert that the log leads to what is held."""
        self._holdings.check()
        assert len(self._log) == len(self._added) <= min(LOG_MAX, self._count - 1)
        for fingerprint, added in dict(zip(self._log, self._added, strict=True)).items():
            assert (fingerprint in self._holdings) is bool(added)

    def _behind(self, version: int) -> int:
        """How many changes ago that was; -1 if that is not known."""
        behind = self._boot + self._count - version
        return behind if 0 <= behind <= len(self._log) else -1

    def _net(self, behind: int) -> tuple[Sequence[int], Sequence[int]]:
        start = len(self._log) - behind
        if self._added.find(0, start) < 0:  # nothing was removed, so nothing was added twice
            return self._log[start:], ()
        last = dict(zip(self._log[start:], self._added[start:], strict=True))
        return [fp for fp, added in last.items() if added], [fp for fp, added in last.items() if not added]

    def _note(self, fingerprint: int, added: int) -> None:
        if len(self._log) >= LOG_MAX:
            del self._log[: LOG_MAX // 2], self._added[: LOG_MAX // 2]
        self._log.append(fingerprint)
        self._added.append(added)
        self._count += 1
