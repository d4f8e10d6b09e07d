"""The vocabulary: what one node can say to another. Payloads follow a message raw, as its blob.

A dialer asks, the node it dialled answers; each message's `kind` travels in its frame's header, so there is nothing to
guess when it is decoded. Structs are arrays in MessagePack: a field may be added at the end, with a default.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from .errors import RemoteProtocolError

PROTOCOL_VERSION: Final = 1

KEYS_MAX = 512  # in one BatchGet, Has or Forget: 66 bytes each, and all of a message but its blob has at most 65535
MEMBERS_MAX = 256
NOT_HERE, DID_NOT_FIT = -1, -2  # in the place of a size
ENCODERS_MAX = 64

# What is said of nodes ends up in tables, logs and calls to connect: it is bounded where it comes in.
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[!-~]*\Z")]
Name = Annotated[str, Meta(max_length=255)]
Host = Annotated[str, Meta(max_length=255, pattern=r"\A[!-~]*\Z")]
Port = Annotated[int, Meta(ge=0, le=65535)]


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Anything that is said."""

    kind: ClassVar[int]


# -- the handshake: each side says it once, and nothing before it ----------------------------------------------


class Encoder(msgspec.Struct, frozen=True, array_like=True):
    """An encoder identity: `keys.EncoderIdentity` on the wire."""

    name: str
    version: str
    fingerprint: bytes


class Hello(Message, frozen=True, array_like=True):
    """Who speaks. An empty host means: the address that this connection comes from or goes to."""

    kind = 1

    protocol: int
    cluster: Name
    id: Id
    boot: Id
    name: Name
    peer_host: Host
    peer_port: Port
    http_host: Host
    http_port: Port
    capacity_bytes: Annotated[int, Meta(ge=0)]


class Refused(Message, frozen=True, array_like=True):
    """Why the connection ends now (at the handshake), or why a request was not done (instead of its answer)."""

    kind = 2

    reason: str


class Cancel(Message, frozen=True, array_like=True):
    """The answer to the request on this stream is not wanted any more."""

    kind = 3


# -- features --------------------------------------------------------------------------------------------------


class Get(Message, frozen=True, array_like=True):
    """The payload of a packed key. Answer: Found with the payload as its blob, or Missing."""

    kind = 10

    key: bytes


class Found(Message, frozen=True, array_like=True):
    """Here it is."""

    kind = 11


class Missing(Message, frozen=True, array_like=True):
    """Not here."""

    kind = 12


class BatchGet(Message, frozen=True, array_like=True):
    """Many payloads. Answer: Batch."""

    kind = 13

    keys: list[bytes]


class Batch(Message, frozen=True, array_like=True):
    """A size per key asked for, and the payloads after one another as the blob.

    NOT_HERE for a key that is not held; DID_NOT_FIT for one to ask for again.
    """

    kind = 14

    sizes: list[int]


class Has(Message, frozen=True, array_like=True):
    """Which of these are there? Answer: Held."""

    kind = 15

    keys: list[bytes]


class Held(Message, frozen=True, array_like=True):
    """One byte per key asked for: 1 held, 0 not."""

    kind = 16

    flags: bytes


class Put(Message, frozen=True, array_like=True):
    """Keep the payload that follows; its making began `age_ms` ago. Answer: Done(1), or Done(0) if it was not kept."""

    kind = 17

    age_ms: int


class Forget(Message, frozen=True, array_like=True):
    """Drop keys (64 bytes) and images (32 bytes). Answer: Done with how many entries went."""

    kind = 18

    names: list[bytes]


class Done(Message, frozen=True, array_like=True):
    """So it was done, so many times."""

    kind = 19

    count: int


# -- the cluster -----------------------------------------------------------------------------------------------


class Ping(Message, frozen=True, array_like=True):
    """Are you there? Answer: Ack. `digest` sums up what the sender knows (see State)."""

    kind = 30

    digest: bytes
    used_bytes: int


class Ack(Message, frozen=True, array_like=True):
    """Yes. Where the digests differ, the receiver asks for the State."""

    kind = 31

    digest: bytes
    used_bytes: int


class Member(msgspec.Struct, frozen=True, array_like=True):
    """Somebody whom the sender hears: worth a call, no more."""

    id: Id
    boot: Id
    name: Name
    peer_host: Host
    peer_port: Port


class CurrentVersion(msgspec.Struct, frozen=True, array_like=True):
    """The last invalidation of an encoder's older versions."""

    encoder: str
    version: str
    counter: int


class GetState(Message, frozen=True, array_like=True):
    """What do you know? Answer: State."""

    kind = 32


class State(Message, frozen=True, array_like=True):
    """Members, encoders and current versions that the sender knows. Said unasked, too (answer: Done)."""

    kind = 33

    members: list[Member]
    encoders: list[Encoder]
    current: list[CurrentVersion]


class Leave(Message, frozen=True, array_like=True):
    """The sender leaves for good reason: take it out of the ring at once. Answer: Done."""

    kind = 34


MESSAGES: Final[dict[int, type[Message]]] = {
    message.kind: message
    for message in (
        Hello, Refused, Cancel, Get, Found, Missing, BatchGet, Batch, Has, Held, Put, Forget, Done,
        Ping, Ack, GetState, State, Leave,
    )
}  # fmt: skip

REQUESTS: Final = frozenset(m.kind for m in (Get, BatchGet, Has, Put, Forget, Ping, GetState, State, Leave))
ANSWERS: Final = frozenset(m.kind for m in (Found, Missing, Batch, Held, Done, Ack, State, Refused))
WITH_BLOB: Final = frozenset(m.kind for m in (Found, Batch, Put))

_encoder = msgspec.msgpack.Encoder()
_decoders: Final[dict[int, msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(message) for kind, message in MESSAGES.items()
}


def encode(message: Message | Member) -> bytes:
    """The message's fields; its kind goes into the frame. Of a Member: its part of a State."""
    return _encoder.encode(message)


def decode(kind: int, head: bytes | memoryview) -> Message:
    """The message of a known `kind`; RemoteProtocolError when `head` is not one."""
    try:
        message: Message = _decoders[kind].decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # arrays nested a thousand deep
        raise RemoteProtocolError(f"{MESSAGES[kind].__name__} that does not decode: {error}") from None
    return message
