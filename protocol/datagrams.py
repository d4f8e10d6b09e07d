"""What members say of each other in datagrams: who is there, what has changed, many small things at a time.

Each says one thing (`Said`) and has rumors beside it, and news of the sender's list of keys, as many as fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from .errors import RemoteProtocolError
from .messages import CHANGES_BYTES_MAX, INCARNATION_MAX, Age, Host, Id, ListVersion, Name, Port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .frames import Buffer

# One Ethernet packet, with room for IPv6, UDP and encryption. What is cut in pieces is lost piece by piece.
DATAGRAM_BYTES_MAX = 1400


class Alive(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """This boot of a node is there. An empty host: as the receiver knows it."""

    id: Id
    incarnation: Annotated[int, Meta(ge=0, le=INCARNATION_MAX)]
    boot: Id
    name: Name
    peer_host: Host
    peer_port: Port
    http_host: Host
    http_port: Port
    capacity_bytes: Annotated[int, Meta(ge=0)]


class Suspected(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """It has not answered `by`."""

    id: Id
    incarnation: Annotated[int, Meta(ge=0, le=INCARNATION_MAX)]
    by: Id


class Gone(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """It is dead, or has said goodbye."""

    id: Id
    incarnation: Annotated[int, Meta(ge=0, le=INCARNATION_MAX)]
    has_left: bool


class NowCurrent(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """An invalidation: see CurrentVersion."""

    encoder: Annotated[str, Meta(max_length=255)]
    version: Annotated[str, Meta(max_length=255)]
    counter: int


class Exists(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """There is an encoder: see Encoder."""

    name: Annotated[str, Meta(max_length=255)]
    version: Annotated[str, Meta(max_length=255)]
    fingerprint: bytes


class Removed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A key (64 bytes) or image (32 bytes) was removed, so long ago."""

    name: bytes
    stamp: Annotated[int, Meta(ge=1, le=2**53)]
    age_s: Age


Rumor = Alive | Suspected | Gone | NowCurrent | Exists | Removed

Number = Annotated[int, Meta(ge=0, lt=2**32)]
Digest = Annotated[bytes, Meta(max_length=64)]


class Probe(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Are you there, `target`? `digest` sums up what the sender knows."""

    number: Number
    target: Id
    sender: Id
    digest: Digest


class Here(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The answer to a Probe of that number."""

    number: Number
    digest: Digest
    used_bytes: Annotated[int, Meta(ge=0)]


class ProbeFor(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Ask `target` for me: it does not answer me. A Here or NotHere of that number is the answer."""

    number: Number
    target: Id
    peer_host: Host
    peer_port: Port


class NotHere(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """I have heard your ProbeFor, and nothing from its target yet."""

    number: Number


class News(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Nothing but the rumors beside it."""


Said = Probe | Here | ProbeFor | NotHere | News

Fingerprints = Annotated[bytes, Meta(max_length=CHANGES_BYTES_MAX)]


class Changes(msgspec.Struct, frozen=True, array_like=True):
    """What a node's list gained and lost between two of its versions: fingerprints of 4 bytes."""

    since: ListVersion
    added: Fingerprints
    removed: Fingerprints


class ListNews(msgspec.Struct, frozen=True, array_like=True):
    """The version of the sender's list, that of the receiver's list that the sender has, and what changed.

    `has` is 0 where the sender knows nothing of it yet, and None where it does not want to. The changes lead to
    `version`; None where there are too many of them for a datagram, or none.
    """

    version: ListVersion
    has: ListVersion | None
    changes: Changes | None = None


class _Datagram(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Its rumors are encoded for themselves: each is told, and heard, many times."""

    said: Said
    rumors: list[msgspec.Raw] = []
    news: ListNews | None = None


_encoder: Final = msgspec.msgpack.Encoder()
_datagrams: Final = msgspec.msgpack.Decoder(_Datagram)
_rumors: Final[msgspec.msgpack.Decoder[Rumor]] = msgspec.msgpack.Decoder(Rumor)


def encode_rumor(rumor: Rumor) -> bytes:
    """A rumor as `encode_datagram` takes it."""
    return _encoder.encode(rumor)


def encode_datagram(said: Said, rumors: list[bytes], news: ListNews | None = None) -> bytes:
    """One datagram; `rumors` are encoded (`encode_rumor`) and small enough (`rumors_room`)."""
    return _encoder.encode(_Datagram(said, [msgspec.Raw(rumor) for rumor in rumors] if rumors else [], news))


def rumors_room(said: Said, news: ListNews | None = None) -> int:
    """How many bytes of rumors fit beside `said` and `news`."""
    return DATAGRAM_BYTES_MAX - len(_encoder.encode(said)) - len(_encoder.encode(news)) - 4  # two array headers


def decode_datagram(data: bytes) -> tuple[Said, Sequence[msgspec.Raw], ListNews | None]:
    """What was said, and what stands beside it; RemoteProtocolError when `data` is no datagram.

    The rumors are encoded still (`decode_rumor`).
    """
    try:
        datagram = _datagrams.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"datagram that does not decode: {error}") from None
    return datagram.said, datagram.rumors, datagram.news


def decode_rumor(encoded: Buffer) -> Rumor:
    """One of the rumors of a datagram; RemoteProtocolError when it is none."""
    try:
        return _rumors.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"rumor that does not decode: {error}") from None
