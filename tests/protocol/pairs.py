"""Two connections joined in memory, and what a peer may forge."""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec
import numpy as np
from edgecache.protocol.connection import (
    Connection,
    Event,
)
from edgecache.protocol.frames import CHUNK_BYTES, uninitialized
from edgecache.protocol.messages import (
    PROTOCOL_VERSION,
    Hello,
    Message,
    encode,
)
from hypothesis import strategies as st

KEY = bytes(64)
SIZES = st.sampled_from([0, 1, 100, 8192, 8193, CHUNK_BYTES, CHUNK_BYTES + 1, 200_000, 600_000])


def by_complaint(value: object) -> str:
    """What a case is called in the list of tests: by the complaint that it earns."""
    return value if isinstance(value, str) else "said"


def hello_of(name: str, *, cluster: str = "home", protocol: int = PROTOCOL_VERSION) -> Hello:
    return Hello(protocol, cluster, name, "boot", name, "", 7441, "", 7440, 2**30)


def abled(name: str, abilities: int) -> Hello:
    """The Hello of a node that knows so much of the protocol."""
    return msgspec.structs.replace(hello_of(name), abilities=abilities)


def blob_of(seed: int, size: int) -> bytes:
    """Bytes that show it when a piece of them is missing, doubled or another's."""
    return ((np.arange(size) * 31 + seed * 7) % 251).astype(np.uint8).tobytes()


def feed(connection: Connection, data: bytes, now: float = 0.0) -> list[Event]:
    events, view = [], memoryview(data)
    while view:
        buffer = connection.buffer()
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        view = view[count:]
        events += connection.received(now, count)
    connection.check()
    return events


def taken(connection: Connection, bytes_wanted: int = 2**40) -> bytes:
    return b"".join(connection.take(bytes_wanted))


def framed(
    message: Message | int, stream: int = 0, blob_bytes: int = 0, piece: bytes = b"", head: bytes | None = None
) -> bytes:
    """A frame as a peer may forge it."""
    kind = message if isinstance(message, int) else message.kind
    if head is None:
        head = b"" if isinstance(message, int) else encode(message)
    return struct.pack("<IBBHII", len(head) + len(piece), kind, 0, len(head), stream, blob_bytes) + head + piece


class Pair:
    """A dialer and the node it dialled, with nothing between them that loses a byte."""

    def __init__(
        self,
        *,
        are_open: bool = True,
        receive_into: Callable[[int], memoryview] = uninitialized,
        abilities: int = 0,
    ) -> None:
        dialer, dialled = (
            msgspec.structs.replace(hello_of(name), abilities=abilities) for name in ("dialer", "dialled")
        )
        self.dialer = Connection(dialer, 0.0, is_dialer=True, receive_into=receive_into)
        self.dialled = Connection(dialled, 0.0, is_dialer=False, receive_into=receive_into)
        if are_open:
            self.up()
            self.down()

    def up(self, now: float = 0.0) -> list[Event]:
        """Everything that the dialer has to say is heard."""
        return feed(self.dialled, taken(self.dialer), now)

    def down(self, now: float = 0.0) -> list[Event]:
        """Everything that the dialled side has to say is heard."""
        return feed(self.dialer, taken(self.dialled), now)

    def ask(self, request: Message, deadline: float = 1.0, blob: bytes = b"") -> int:
        stream = self.dialer.ask(request, deadline, (blob,) if blob else (), len(blob))
        assert stream is not None
        return stream
