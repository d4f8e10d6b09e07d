"""The cluster key: one secret line in a file, and what is derived from it.

Whoever has it is a member. It is copied to every device by hand (`scp -p`), so that no server has to be asked who may
join. What it is used for gets a secret of its own by HKDF-SHA256 (RFC 5869), so that a bearer token that was read on
the wire says nothing about the certificates.

While a key is being changed, its file has two lines: the new key and, below it, the one that devices may still have.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import secrets
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ..protocol.errors import EdgeCacheError, InvalidValue

FORMAT = 1
SECRET_BYTES = 32
KEYS_MAX = 2  # in one file: the new one, and the one that it replaces
FILE_BYTES_MAX = 4096

_LINE = re.compile(rf"edgecache-key-([0-9]{{1,4}}):([0-9a-f]{{{2 * SECRET_BYTES}}})", re.ASCII)
_CA_INFO = b"edgecache 1 certificate authority"
_TOKEN_INFO = b"edgecache 1 http bearer token"
_NAME_INFO = b"edgecache 1 key name"
_DATAGRAMS_INFO = b"edgecache 1 datagrams"

_log = logging.getLogger(__name__)


class KeyExists(EdgeCacheError):
    """There is a file already where a new key should go, or a former key still in it."""


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """What a key is used for. No secret is ever shown: `repr` leaves them out."""

    ca_seed: bytes = field(repr=False)
    """The private key of the certificate authority (Ed25519, 32 bytes)."""
    token: str = field(repr=False)
    """What an HTTP request from another machine carries: 43 characters."""
    name: str = field(repr=False)
    """Says which key is meant without giving it away: 32 hexadecimal digits, sent in clear (SNI)."""
    datagrams: bytes = field(repr=False)
    """What datagrams between nodes are sealed with (`sealing.py`, 32 bytes)."""

    @classmethod
    def derived(cls, secret: bytes) -> ClusterKey:
        """From the secret in a key file."""
        token = base64.urlsafe_b64encode(_hkdf(secret, _TOKEN_INFO)).rstrip(b"=")
        return cls(
            _hkdf(secret, _CA_INFO),
            token.decode(),
            _hkdf(secret, _NAME_INFO)[:16].hex(),
            _hkdf(secret, _DATAGRAMS_INFO),
        )


def new_key(path: Path) -> None:
    """Write a new key, readable by its owner only. KeyExists: a key is never overwritten. OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KeyExists(f"{path}: exists; a key is never overwritten") from None
    try:
        _write(descriptor, [_new_line()])
    except OSError:
        path.unlink(missing_ok=True)
        raise


def rotate(path: Path) -> None:
    """Put a new key above the one in the file, which goes on being accepted. InvalidValue, KeyExists, OSError."""
    lines = _read_lines(path)
    if len(lines) == KEYS_MAX:
        raise KeyExists(f"{path}: has a new key and a former one already; edgecache key retire ends that change first")
    _replace(path, [_new_line(), *lines])


def retire(path: Path) -> None:
    """Take the former key out of the file. InvalidValue when there is none; OSError."""
    lines = _read_lines(path)
    if len(lines) < KEYS_MAX:
        raise InvalidValue(f"{path}: has one key, and no former one to retire")
    _replace(path, lines[:1])


def read_keys(path: Path) -> tuple[ClusterKey, ...]:
    """The keys in a file, the new one first; InvalidValue when it has none. Says in the log if others can read it too.

    A symlink is followed: that is how container engines hand out secrets.
    """
    return tuple(ClusterKey.derived(bytes.fromhex(line.partition(":")[2])) for line in _read_lines(path))


def _read_lines(path: Path) -> list[str]:
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
    lines = content.decode("ascii", "replace").split()
    matches = [_LINE.fullmatch(line) for line in lines]
    if not 1 <= len(lines) <= KEYS_MAX or None in matches or len(set(lines)) < len(lines):
        raise InvalidValue(
            f"cluster key {path}: expected one line, edgecache-key-{FORMAT}: and {2 * SECRET_BYTES} hexadecimal digits,"
            " or two such lines while a key is being changed"
        )
    for match in matches:
        if match is not None and int(match[1]) != FORMAT:
            raise InvalidValue(f"cluster key {path}: a key of format {int(match[1])}; format {FORMAT} is read here")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("cluster key %s can be read by others on this machine: chmod 600 it", path)
    return lines


def _new_line() -> str:
    return f"edgecache-key-{FORMAT}:{secrets.token_hex(SECRET_BYTES)}"


def _replace(path: Path, lines: list[str]) -> None:
    """All of the new content or all of the old is there, whatever happens."""
    path = path.resolve()
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    try:
        _write(descriptor, lines)
        os.replace(beside, path)
    except OSError:
        Path(beside).unlink(missing_ok=True)
        raise


def _write(descriptor: int, lines: list[str]) -> None:
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def _hkdf(secret: bytes, info: bytes) -> bytes:
    # Here, because without a key nothing needs it: 24 ms of a client's start.
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length=32, salt=None, info=info).derive(secret)
