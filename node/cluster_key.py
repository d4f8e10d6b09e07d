"""The cluster key: one secret line in a file, and what is derived from it.

Whoever has it is a member. It is copied to every device by hand (`scp -p`), so that no server has to be asked who may
join. What it is used for gets a secret of its own by HKDF-SHA256 (RFC 5869), so that a bearer token that was read on
the wire says nothing about the certificates.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ..protocol.errors import EdgeCacheError, InvalidValue

FORMAT = 1
SECRET_BYTES = 32
FILE_BYTES_MAX = 4096

_LINE = re.compile(rf"edgecache-key-([0-9]{{1,4}}):([0-9a-f]{{{2 * SECRET_BYTES}}})", re.ASCII)
_CA_INFO = b"edgecache 1 certificate authority"
_TOKEN_INFO = b"edgecache 1 http bearer token"

_log = logging.getLogger(__name__)


class KeyExists(EdgeCacheError):
    """There is a file already where a new key should go."""


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """What a key is used for. Neither is ever shown: `repr` leaves them out."""

    ca_seed: bytes = field(repr=False)
    """The private key of the certificate authority (Ed25519, 32 bytes)."""
    token: str = field(repr=False)
    """What an HTTP request from another machine carries: 43 characters."""

    @classmethod
    def derived(cls, secret: bytes) -> ClusterKey:
        """From the secret in a key file."""
        token = base64.urlsafe_b64encode(_hkdf(secret, _TOKEN_INFO)).rstrip(b"=")
        return cls(_hkdf(secret, _CA_INFO), token.decode())


def new_key(path: Path) -> None:
    """Write a new key, readable by its owner only. KeyExists: a key is never overwritten. OSError."""
    line = f"edgecache-key-{FORMAT}:{secrets.token_hex(SECRET_BYTES)}\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KeyExists(f"{path}: exists; a key is never overwritten") from None
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def read_key(path: Path) -> ClusterKey:
    """The key in a file; InvalidValue when it is none. Says in the log if others can read it too.

    A symlink is followed: that is how container engines hand out secrets.
    """
    if _LINE.search(str(path)):
        raise InvalidValue("cluster key: expected the name of a file, and got a key itself")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a fifo would hold the start for ever
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise InvalidValue(f"cluster key {path}: not a file")
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        hint = "; edgecache key new FILE makes one" if isinstance(error, FileNotFoundError) else ""
        raise InvalidValue(f"cluster key {path}: {error.strerror}{hint}") from None
    if len(content) > FILE_BYTES_MAX:
        raise InvalidValue(f"cluster key {path}: more than {FILE_BYTES_MAX} bytes")
    match = _LINE.fullmatch(content.decode("ascii", "replace").strip())
    if match is None:
        raise InvalidValue(
            f"cluster key {path}: expected one line, edgecache-key-{FORMAT}: and {2 * SECRET_BYTES} hexadecimal digits"
        )
    if int(match[1]) != FORMAT:
        raise InvalidValue(f"cluster key {path}: a key of format {int(match[1])}; format {FORMAT} is read here")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("cluster key %s can be read by others on this machine: chmod 600 it", path)
    return ClusterKey.derived(bytes.fromhex(match[2]))


def _hkdf(secret: bytes, info: bytes) -> bytes:
    # Here, because without a key nothing needs it: 24 ms of a client's start.
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length=32, salt=None, info=info).derive(secret)
