"""The vocabulary: what one node can say to another. Payloads follow a message raw, as its blob.

A dialer asks, the node it dialled answers; each message's `kind` travels in its frame's header, so there is nothing to
guess when it is decoded. Structs are arrays in MessagePack: a field may be added at the end, with a default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from .coding import PACE_MAX
from .errors import RemoteProtocolError

if TYPE_CHECKING:
    pass

PROTOCOL_VERSION: Final = 1

KEYS_MAX = 512  # in one BatchGet, Has or Forget: 66 bytes each, and all of a message but its blob has at most 65535
MEMBERS_MAX = 1024
NOT_HERE, DID_NOT_FIT = -1, -2  # in the place of a size
ENCODERS_MAX = 64
INCARNATION_MAX = 2**53
# In Hello.abilities: that what is said to it may be coded (`coding.py`), and may be broken off when it has cancelled.
# DELTA: that it may be asked for a payload by what is like it, and answers with the difference (`delta.py`).
ZSTD: Final = 1
CUT: Final = 2
DELTA: Final = 4

# What is said of nodes ends up in tables, logs and calls to connect: it is bounded where it comes in.
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[!-~]*\Z")]
Name = Annotated[str, Meta(max_length=255)]
Host = Annotated[str, Meta(max_length=255, pattern=r"\A[!-~]*\Z")]
Port = Annotated[int, Meta(ge=0, le=65535)]
Stamp = Annotated[int, Meta(ge=0, le=2**53)]
Age = Annotated[int, Meta(ge=0, le=2**31)]
# How much longer an answer is of use to who asks, from when the question comes; 0: not said.
MS_MAX = 2**31 - 1
LeftMs = Annotated[int, Meta(ge=0, le=MS_MAX)]


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Anything that is said."""

    kind: ClassVar[int]
    is_coded: ClassVar[bool] = False
    """Whether its blob is coded as it is, and not once more on the way."""


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
    abilities: Annotated[int, Meta(ge=0)] = 0
    """What it knows beyond the first protocol: ZSTD, CUT, DELTA. Other bits are of later ones."""


class Refused(Message, frozen=True, array_like=True):
    """Why the connection ends now (at the handshake), or why a request was not done (instead of its answer)."""

    kind = 2

    reason: str


class Cancel(Message, frozen=True, array_like=True):
    """The answer to the request on this stream is not wanted any more."""

    kind = 3


class Pace(Message, frozen=True, array_like=True):
    """What you send comes at this pace: code it if that is slow. Said by either side, if the other may code."""

    kind = 4

    bytes_per_s: Annotated[int, Meta(ge=1, le=PACE_MAX)]


# -- features --------------------------------------------------------------------------------------------------


class Begun(msgspec.Struct, frozen=True, array_like=True):
    """What the asker has of a payload already: its first `size` bytes, the first 16 of which are `same`."""

    size: Annotated[int, Meta(ge=1, lt=2**32)]
    same: Annotated[bytes, Meta(min_length=16, max_length=16)]


class Like(msgspec.Struct, frozen=True, array_like=True):
    """What the asker has that may be like it: the packed key, and the first 16 bytes of that payload."""

    key: Annotated[bytes, Meta(min_length=64, max_length=64)]
    same: Annotated[bytes, Meta(min_length=16, max_length=16)]


class Get(Message, frozen=True, array_like=True):
    """The payload of a packed key. Answer: Found with the payload as its blob, or Missing.

    Whoever is able to (DELTA) may be told what is `like` it, and may answer with a Difference.
    """

    kind = 10

    key: bytes
    left_ms: LeftMs = 0
    begun: Begun | None = None
    like: Like | None = None


class Found(Message, frozen=True, array_like=True):
    """Here it is, from byte `start` on: 0, or what the asker has begun with."""

    kind = 11

    start: Annotated[int, Meta(ge=0, lt=2**32)] = 0


class Missing(Message, frozen=True, array_like=True):
    """Not here."""

    kind = 12


class BatchGet(Message, frozen=True, array_like=True):
    """Many payloads. Answer: Batch."""

    kind = 13

    keys: list[bytes]
    left_ms: LeftMs = 0


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
    left_ms: LeftMs = 0


class Held(Message, frozen=True, array_like=True):
    """One byte per key asked for: 1 held, 0 not."""

    kind = 16

    flags: bytes


class Put(Message, frozen=True, array_like=True):
    """Keep the payload that follows; its making began `age_ms` ago. Answer: Done(1), or Done(0) if it was not kept."""

    kind = 17

    age_ms: int


class Forget(Message, frozen=True, array_like=True):
    """Drop keys (64 bytes) and images (32 bytes); and all of encoders (32 bytes). Answer: Done, how many went."""

    kind = 18

    names: list[bytes]
    encoders: list[bytes] = []


class Done(Message, frozen=True, array_like=True):
    """So it was done, so many times."""

    kind = 19

    count: int


class Remove(Message, frozen=True, array_like=True):
    """A user removes keys (64 bytes) and images (32 bytes): drop them, and what else was made before (`removals.py`).

    Answer: AllRemoved.
    """

    kind = 20

    names: list[bytes]
    stamp: Annotated[int, Meta(ge=1, le=2**53)]


class AllRemoved(Message, frozen=True, array_like=True):
    """So many entries went, and this is the removal's stamp from now on: a later one where the one said was taken."""

    kind = 21

    count: int
    stamp: Stamp


# -- leases: the owner of a key says who encodes it ---------------------------------------------------------------


class Claim(Message, frozen=True, array_like=True):
    """Get of a key that the sender would otherwise encode in `encode_ms`. Answer: Found, Granted or Leased."""

    kind = 22

    key: bytes
    encode_ms: LeftMs
    left_ms: LeftMs = 0
    begun: Begun | None = None
    like: Like | None = None


class Granted(Message, frozen=True, array_like=True):
    """Encode it: nobody else is told to for `lease_ms`. A Put of it ends the lease, and so does Release."""

    kind = 23

    lease_ms: LeftMs


class Leased(Message, frozen=True, array_like=True):
    """Another node encodes it, and should be done in `expected_ms`."""

    kind = 24

    expected_ms: LeftMs


class Await(Message, frozen=True, array_like=True):
    """The payload of a key that is leased, when it comes. Answer: Found, or Missing when nobody makes it any more."""

    kind = 25

    key: bytes
    left_ms: LeftMs


class Release(Message, frozen=True, array_like=True):
    """The sender does not encode the key after all. Answer: Done(1), or Done(0) if it had no lease."""

    kind = 26

    key: bytes


class Difference(Message, frozen=True, array_like=True):
    """Found, as the difference from what the asker has that is like it (`delta.py`), which is the blob."""

    kind = 27
    is_coded = True


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
    """A member, and what the sender holds of it: the last of `node/membership.py`'s states at that incarnation."""

    id: Id
    boot: Id
    name: Name
    peer_host: Host
    peer_port: Port
    http_host: Host = ""
    http_port: Port = 0
    capacity_bytes: Annotated[int, Meta(ge=0)] = 0
    incarnation: Annotated[int, Meta(ge=0, le=INCARNATION_MAX)] = 0
    state: Annotated[int, Meta(ge=0, le=3)] = 0


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


class RemovedSums(Message, frozen=True, array_like=True):
    """8 bytes for each part of the sender's removals. Answer: RemovedSums of the other side."""

    kind = 35

    sums: Annotated[bytes, Meta(min_length=512, max_length=512)]


class RemovedPart(Message, frozen=True, array_like=True):
    """The removals of one part, at most 512 of them: names, stamps, ages in seconds. Answer: the same of the other."""

    kind = 36

    part: Annotated[int, Meta(ge=0, le=63)]
    names: list[bytes]
    stamps: list[Stamp]
    ages: list[Age]


# -- the directory: which keys who holds ---------------------------------------------------------------------------

# So many fingerprints of one node, at most: 0.5 MB in one answer. At 151 KB each that is 40 GB of features.
HOLDINGS_MAX = 262_144
CHANGES_MAX = 65_536  # in one answer
CHANGES_BYTES_MAX = 640  # of added and removed fingerprints in one datagram, so that rumors have room beside them

# The state of a node's own list: 24 bits that name the boot, and 40 that count its changes.
ListVersion = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class GetKeys(Message, frozen=True, array_like=True):
    """Which keys do you hold? The asker knows the list as it was at `has`; 0: not at all. Answer: Keys."""

    kind = 40

    has: ListVersion


class Keys(Message, frozen=True, array_like=True):
    """The fingerprints of what a node held at `until`; its blob has `added` of them, and `removed`.

    If `since` is 0, the blob is the code of all (`protocol/fingerprints.pack`). Otherwise it lists what was added
    since that version, and then what was removed, 4 bytes each.
    """

    kind = 41

    since: ListVersion
    until: ListVersion
    added: Annotated[int, Meta(ge=0, le=HOLDINGS_MAX)]
    removed: Annotated[int, Meta(ge=0, le=CHANGES_MAX)]


MESSAGES: Final[dict[int, type[Message]]] = {
    message.kind: message
    for message in (
        Hello, Refused, Cancel, Pace, Get, Found, Missing, BatchGet, Batch, Has, Held, Put, Forget, Done,
        Remove, AllRemoved, Claim, Granted, Leased, Await, Release, Difference,
        Ping, Ack, GetState, State, Leave, RemovedSums, RemovedPart, GetKeys, Keys,
    )
}  # fmt: skip

REQUESTS: Final = frozenset(
    m.kind for m in (
        Get, BatchGet, Has, Put, Forget, Remove, Claim, Await, Release,
        Ping, GetState, State, Leave, RemovedSums, RemovedPart, GetKeys,
    )
)  # fmt: skip
ANSWERS: Final = frozenset(
    m.kind for m in (
        Found, Difference, Missing, Batch, Held, Done, AllRemoved, Granted, Leased,
        Ack, State, Refused, RemovedSums, RemovedPart, Keys,
    )
)  # fmt: skip
TO_CLOUD_NODE: Final = frozenset(m.kind for m in (Get, BatchGet, Has, Put, Forget, Ping, GetState))
WITH_BLOB: Final = frozenset(m.kind for m in (Found, Difference, Batch, Put, Keys))

_encoder = msgspec.msgpack.Encoder()
_decoders: Final[dict[int, msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(message) for kind, message in MESSAGES.items()
}


def encode(message: Message | Member) -> bytes:
    """The message's fields; its kind goes into the frame. Of a Member: its part of a message."""
    return _encoder.encode(message)


def decode(kind: int, head: bytes | memoryview) -> Message:
    """The message of a known `kind`; RemoteProtocolError when `head` is not one."""
    try:
        message: Message = _decoders[kind].decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # arrays nested a thousand deep
        raise RemoteProtocolError(f"{MESSAGES[kind].__name__} that does not decode: {error}") from None
    return message
