"""Datagrams that only holders of the cluster key can read, or make.

ChaCha20-Poly1305 (RFC 8439) under a key that each process derives for itself from the cluster's and 16 random bytes
that it sends along, so that a counter is nonce enough and no two processes ever use one nonce with one key:

    0  salt, 16     16  counter u64, little-endian     24  what was sealed, and its tag of 16

A datagram that is recorded and sent again is still opened. All that is said in datagrams is made for that: a probe's
answer counts once, and of two claims the later counts, whatever order they come in.
"""

from __future__ import annotations

import secrets
import struct
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from .link import Address, Datagrams

SALT_BYTES = 16
SEALED_BYTES = SALT_BYTES + 8 + 16  # more than was sealed
SENDERS_MAX = 512  # whose keys are remembered: deriving one takes as long as opening five datagrams
_HEAD = struct.Struct(f"<{SALT_BYTES}sQ")


class Sealing:
    """Seals and opens datagrams for one process."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._salt = secrets.token_bytes(SALT_BYTES)
        self._counter = 0
        self._own = self._derived(self._salt)
        self._others: OrderedDict[bytes, ChaCha20Poly1305] = OrderedDict()

    def seal(self, data: bytes) -> bytes:
        """`data` for the others."""
        self._counter += 1
        head = _HEAD.pack(self._salt, self._counter)
        return head + self._own.encrypt(_nonce(self._counter), data, head)

    def open(self, sealed: bytes) -> bytes | None:
        """What was sealed, or None: by nobody who has the key, or not whole."""
        if len(sealed) < SEALED_BYTES:
            return None
        head = sealed[: _HEAD.size]
        salt, counter = _HEAD.unpack(head)
        cipher = self._others.get(salt)
        is_new = cipher is None
        if cipher is None:
            cipher = self._derived(salt)
        try:
            data = cipher.decrypt(_nonce(counter), sealed[_HEAD.size :], head)
        except InvalidTag:
            return None
        if is_new:
            self._others[salt] = cipher
            if len(self._others) > SENDERS_MAX:
                self._others.popitem(last=False)
        else:
            self._others.move_to_end(salt)
        return data

    def _derived(self, salt: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(HKDF(SHA256(), length=32, salt=salt, info=b"sender").derive(self._key))


class Seals:
    """Seals and opens with every key that is accepted: two, while one takes the other's place."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._sealings = [Sealing(key) for key in keys]
        self._heard: OrderedDict[Address, Sealing] = OrderedDict()  # with what those at an address seal

    def seal(self, data: bytes, address: Address) -> list[bytes]:
        """`data` for whoever is at `address`: with the key that they use, or with each until that is known."""
        heard = self._heard.get(address)
        return [sealing.seal(data) for sealing in ([heard] if heard is not None else self._sealings)]

    def open(self, sealed: bytes, address: Address) -> bytes | None:
        """What was sealed, or None."""
        for sealing in self._sealings:
            if (data := sealing.open(sealed)) is not None:
                if len(self._sealings) > 1:
                    self._heard[address] = sealing
                    if len(self._heard) > SENDERS_MAX:
                        self._heard.popitem(last=False)
                return data
        return None


class SealedDatagrams:
    """Seals what is sent (`link.Datagrams`)."""

    def __init__(self, datagrams: Datagrams, seals: Seals) -> None:
        self._datagrams = datagrams
        self._seals = seals

    def send(self, data: bytes, address: Address) -> None:
        """Send one, sealed."""
        for sealed in self._seals.seal(data, address):
            self._datagrams.send(sealed, address)

    def close(self) -> None:
        """No more either way."""
        self._datagrams.close()


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "little")
