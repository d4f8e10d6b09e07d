"""One peer's conversation, sans-IO: the handshake, the requests in flight, their deadlines, and every limit.

The dialer asks, the node it dialled answers. Each side first says Hello; then streams, numbered by the dialer, carry
one request and one answer each, many at once. Facts go in (`received`, `tick`), events come out; time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from .coding import Coder, PaceMeter
from .errors import RemoteProtocolError
from .frames import DATA, Buffer, Frame, FrameReader, FrameWriter, uninitialized
from .messages import (
    ANSWERS,
    CUT,
    MESSAGES,
    PROTOCOL_VERSION,
    REQUESTS,
    WITH_BLOB,
    ZSTD,
    Cancel,
    Found,
    Hello,
    Message,
    Pace,
    Put,
    Refused,
    decode,
    encode,
)
from .payload import PAYLOAD_BYTES_MAX

# A payload and its header, or as many payloads as one batch may bring.
BLOB_BYTES_MAX = PAYLOAD_BYTES_MAX + 64 * 1024
STREAMS_MAX = 1024  # requests in flight on one connection
ARRIVING_BYTES_MAX = 2 * BLOB_BYTES_MAX  # blobs that are partly here, together; the sender keeps to it
HANDSHAKE_TIMEOUT_S = 5.0
# A frame has at most 320 KB; on a link that cannot carry it in this time, encoding is faster anyway.
FRAME_TIMEOUT_S = 10.0
# And a whole message at most this: 64 MB at 10 Mbit/s. A peer that begins blobs and feeds them crumbs holds memory.
MESSAGE_TIMEOUT_S = 60.0
REASON_CHARS_MAX = 200


class Opened(msgspec.Struct, frozen=True):
    """The other side is who it should be."""

    hello: Hello


class Asked(msgspec.Struct, frozen=True):
    """The dialer wants an answer on `stream`."""

    stream: int
    request: Message
    blob: memoryview


class Answered(msgspec.Struct, frozen=True):
    """The answer to the request on `stream`, or None: its deadline has passed.

    In that case `begun` may say what was to be answered, and `blob` is what has come of that one's blob.
    """

    stream: int
    answer: Message | None
    blob: memoryview
    begun: Message | None = None


Event = Opened | Asked | Answered

_EMPTY = memoryview(b"")
_PAYLOADS = frozenset({Found.kind, Put.kind})  # whose blob is one payload


@dataclass(slots=True)
class _Arriving:
    """A message whose blob is partly here. `blob` is None when nobody wants it any more."""

    message: Message
    blob: memoryview | None
    blob_bytes: int
    began_at: float
    filled: int = field(default=0)


class Connection:
    """One side of one connection. Raises RemoteProtocolError when the other side breaks the rules: close it then."""

    def __init__(
        self, me: Hello, now: float, *, is_dialer: bool, receive_into: Callable[[int], memoryview] = uninitialized
    ) -> None:
        """`receive_into` gives the memory for a payload of some size: whoever keeps it can have it arrive there."""
        self._me = me
        self._receive_into = receive_into
        self._is_dialer = is_dialer
        self._reader = FrameReader(BLOB_BYTES_MAX)
        self._writer = FrameWriter(ARRIVING_BYTES_MAX)
        self._may_cut = False
        self._meter: PaceMeter | None = None  # where both sides know coding
        self._peer: Hello | None = None
        self._opened_at = now
        self._heard_at = now
        self._progress_at = now
        self._arriving: dict[int, _Arriving] = {}
        self._arriving_bytes = 0
        self._is_elsewhere = False  # the buffer that was given out is a blob's
        self._deadlines: dict[int, float] = {}  # dialer: stream -> when its answer is no use any more
        self._answering: set[int] = set()  # dialled: streams that wait for our answer
        self._abandoned: set[int] = set()  # dialer: streams whose answer may still come and is to be dropped
        self._next_stream = 1
        self._next_expiry = math.inf  # no deadline of a request is earlier
        self._said = ANSWERS if is_dialer else REQUESTS  # by the other side
        self._send(0, me)

    @property
    def peer(self) -> Hello | None:
        """Who is on the other side; None before the handshake is done."""
        return self._peer

    @property
    def heard_at(self) -> float:
        """When anything last came from the other side."""
        return self._heard_at

    @property
    def pace(self) -> float | None:
        """Bytes a second at which answers come, on a link that is slow enough for both sides to know."""
        return self._meter.pace if self._meter is not None else None

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return self._writer.pending_bytes

    @property
    def requests_in_flight(self) -> int:
        """Requests that wait for their answer: the dialer's to come, or the dialled side's to give."""
        return len(self._deadlines) if self._is_dialer else len(self._answering)

    # -- out ----------------------------------------------------------------------------------------------------

    def ask(self, request: Message, deadline: float, blob: Sequence[Buffer] = (), blob_bytes: int = 0) -> int | None:
        """Send a request; the stream on which its Answered will come, or None when too many are in flight."""
        assert self._is_dialer
        if len(self._deadlines) + len(self._abandoned) >= STREAMS_MAX:
            return None
        stream = self._next_stream
        while stream in self._deadlines or stream in self._abandoned:  # since the numbers last began anew
            stream = stream % 0xFFFF_FFFF + 1
        self._next_stream = stream % 0xFFFF_FFFF + 1
        self._deadlines[stream] = deadline
        self._next_expiry = min(self._next_expiry, deadline)
        self._send(stream, request, blob, blob_bytes)
        return stream

    def cancel(self, stream: int) -> None:
        """The answer on `stream` is not wanted any more; no event comes for it."""
        if self._deadlines.pop(stream, None) is None:
            return
        if self._writer.drop(stream):
            return  # the request was never sent
        self._abandon(stream)

    def answer(self, stream: int, answer: Message, blob: Sequence[Buffer] = (), blob_bytes: int = 0) -> None:
        """Answer the request on `stream`; nothing is sent if the dialer has cancelled it."""
        assert not self._is_dialer
        if stream in self._answering:
            self._answering.discard(stream)
            self._send(stream, answer, blob, blob_bytes)

    def refuse(self, reason: str) -> None:
        """Say why this connection ends; the owner closes it once this is sent."""
        self._send(0, Refused(reason[:REASON_CHARS_MAX]))

    def take(self, bytes_wanted: int) -> list[Buffer]:
        """Buffers to send now."""
        return self._writer.take(bytes_wanted)

    def _send(self, stream: int, message: Message, blob: Sequence[Buffer] = (), blob_bytes: int = 0) -> None:
        self._writer.send(message.kind, stream, encode(message), blob, blob_bytes, is_coded=message.is_coded)

    def _abandon(self, stream: int) -> None:
        self._abandoned.add(stream)
        arriving = self._arriving.get(stream)
        if arriving is not None and arriving.blob is not None:
            arriving.blob = None
            self._arriving_bytes -= arriving.blob_bytes
        self._send(stream, Cancel())

    # -- in -----------------------------------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Where the next received bytes belong: the rest of a large frame straight where its blob stays."""
        missing = self._reader.missing
        arriving = self._arriving.get(self._reader.split_stream) if missing else None
        self._is_elsewhere = arriving is not None and arriving.blob is not None
        if arriving is None or arriving.blob is None:
            return self._reader.buffer()
        return arriving.blob[arriving.filled : arriving.filled + missing]

    def received(self, now: float, count: int) -> list[Event]:
        """What `count` more bytes in `buffer()` mean."""
        if self._meter is not None and self._is_mid_message:
            self._measure(count, now - self._heard_at)
        self._heard_at = now
        if self._is_elsewhere:
            self._is_elsewhere = False
            self._reader.received_elsewhere(count)
            if not self._reader.missing:
                self._progress_at = now
            event = self._grown(self._reader.split_stream, count)
            return [event] if event is not None else []
        was_between = not self._is_mid_message
        frames = self._reader.received(count)
        if (frames and not self._reader.missing) or was_between:  # a slow trickle inside one frame is no progress
            self._progress_at = now
        events: list[Event] = []
        for frame in frames:
            if (event := self._frame(frame)) is not None:
                events.append(event)
        if (begun := self._reader.split()) is not None:
            self._frame(begun)
        return events

    def _measure(self, count: int, seconds: float) -> None:
        assert self._meter is not None
        if (pace := self._meter.came(count, seconds)) is not None:
            self._send(0, Pace(pace))

    def _frame(self, frame: Frame) -> Event | None:
        kind, stream, head, blob_bytes, piece, missing = frame
        piece_bytes = len(piece) + missing
        if kind == DATA:
            if not piece_bytes or head or blob_bytes:
                raise RemoteProtocolError(f"DATA of {piece_bytes} bytes with a head of {len(head)}")
            return self._continued(stream, piece, missing)
        if kind not in MESSAGES:
            raise RemoteProtocolError(f"message of kind {kind}: protocol {PROTOCOL_VERSION} has none")
        if piece_bytes > blob_bytes or (blob_bytes and kind not in WITH_BLOB):
            raise RemoteProtocolError(f"{MESSAGES[kind].__name__} with {piece_bytes} bytes of a blob of {blob_bytes}")
        message = decode(kind, head)
        if self._peer is None:
            return self._handshake(message)
        if kind not in self._said:
            self._aside(stream, message)
            return None
        if self._may_cut and kind == Refused.kind and stream in self._abandoned:
            self._arriving.pop(stream, None)  # its blob is broken off
        if stream in self._arriving:
            raise RemoteProtocolError(f"{type(message).__name__} on stream {stream}, where a blob is still arriving")
        if len(piece) == blob_bytes:
            return self._complete(stream, message, self._copied(message, piece) if blob_bytes else _EMPTY)
        self._open(stream, message, blob_bytes)
        return self._continued(stream, piece, missing)

    def _handshake(self, message: Message) -> Opened:
        if isinstance(message, Refused):
            raise _refused(message)
        if not isinstance(message, Hello):
            raise RemoteProtocolError(f"{type(message).__name__} before Hello")
        if message.protocol != PROTOCOL_VERSION:
            raise RemoteProtocolError(f"protocol {message.protocol}: this node speaks {PROTOCOL_VERSION}")
        if message.cluster != self._me.cluster:
            raise RemoteProtocolError(f"cluster {message.cluster[:64]!r}: this node is in {self._me.cluster!r}")
        self._peer = message
        self._reader.settle()
        self._may_cut = bool(self._me.abilities & message.abilities & CUT)
        if self._me.abilities & message.abilities & ZSTD:
            self._meter = PaceMeter()
            self._writer.coder = Coder()
        return Opened(message)

    def _aside(self, stream: int, message: Message) -> None:
        """What is neither a request nor an answer, or none of this side's."""
        if isinstance(message, Refused):
            raise _refused(message)
        if isinstance(message, Pace) and self._writer.coder is not None:
            self._writer.coder.told(message.bytes_per_s)
            return
        if self._is_dialer or not isinstance(message, Cancel):
            side = "dialled" if self._is_dialer else "dialling"
            raise RemoteProtocolError(f"{type(message).__name__} from the {side} side")
        self._cancelled(stream)

    def _open(self, stream: int, message: Message, blob_bytes: int) -> None:
        """Make room for the blob of a message, if anybody wants it and it is within the limits."""
        wanted = stream not in self._abandoned
        if not self._is_dialer:
            self._check_request(stream)
        elif wanted and stream not in self._deadlines:
            raise RemoteProtocolError(f"answer on stream {stream}, on which nothing was asked")
        if wanted:
            arriving_bytes = self._arriving_bytes + blob_bytes
            if arriving_bytes > ARRIVING_BYTES_MAX:
                raise RemoteProtocolError(f"{arriving_bytes} bytes arriving at once, at most {ARRIVING_BYTES_MAX}")
            self._arriving_bytes = arriving_bytes
        blob = None
        if wanted:
            blob = self._memory(message, blob_bytes)
        self._arriving[stream] = _Arriving(message, blob, blob_bytes, self._heard_at)

    def _memory(self, message: Message, blob_bytes: int) -> memoryview:
        return (self._receive_into if message.kind in _PAYLOADS else uninitialized)(blob_bytes)

    def _copied(self, message: Message, piece: memoryview) -> memoryview:
        blob = self._memory(message, len(piece))
        blob[:] = piece
        return blob.toreadonly()

    def _continued(self, stream: int, piece: memoryview, missing: int) -> Event | None:
        """A piece of a blob, of which `missing` more bytes are announced."""
        arriving = self._arriving.get(stream)
        if arriving is None:
            raise RemoteProtocolError(f"DATA on stream {stream}, where no blob is arriving")
        end = arriving.filled + len(piece)
        if end + missing > arriving.blob_bytes:
            raise RemoteProtocolError(f"{end + missing} bytes of a blob of {arriving.blob_bytes}")
        if arriving.blob is not None:
            arriving.blob[arriving.filled : end] = piece
        return self._grown(stream, len(piece))

    def _grown(self, stream: int, count: int) -> Event | None:
        """The blob on `stream` is `count` bytes nearer to being whole."""
        arriving = self._arriving[stream]
        arriving.filled += count
        if arriving.filled < arriving.blob_bytes:
            return None
        del self._arriving[stream]
        if arriving.blob is not None:
            self._arriving_bytes -= arriving.blob_bytes
        return self._complete(
            stream, arriving.message, arriving.blob.toreadonly() if arriving.blob is not None else _EMPTY
        )

    def _complete(self, stream: int, message: Message, blob: memoryview) -> Event | None:
        if not self._is_dialer:
            self._check_request(stream)
            self._answering.add(stream)
            return Asked(stream, message, blob)
        if stream == 0 and isinstance(message, Refused):
            raise _refused(message)
        if self._deadlines.pop(stream, None) is not None:
            return Answered(stream, message, blob)
        if stream not in self._abandoned:
            raise RemoteProtocolError(f"answer on stream {stream}, on which nothing was asked")
        self._abandoned.discard(stream)
        return None

    def _check_request(self, stream: int) -> None:
        if stream == 0 or stream in self._answering:
            raise RemoteProtocolError(f"request on stream {stream}, which is taken")
        # A request is in flight for the dialer until it has the whole answer, so those that wait to be sent count too.
        if len(self._answering) + len(self._arriving) + self._writer.pending_messages > STREAMS_MAX:
            raise RemoteProtocolError(f"more than {STREAMS_MAX} requests in flight")

    def _cancelled(self, stream: int) -> None:
        """The dialer gave up, and counts the request off when its answer ends: broken off, where it knows that."""
        unsent = stream in self._answering or self._writer.drop(stream)
        self._answering.discard(stream)
        if unsent or (self._may_cut and self._writer.cut(stream)):
            self._send(stream, Refused("cancelled"))

    # -- time ---------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` is next needed, if nothing happens before; perhaps a little early."""
        deadline = self._next_expiry
        if self._peer is None:
            deadline = min(deadline, self._opened_at + HANDSHAKE_TIMEOUT_S)
        if self._arriving or not self._reader.is_between_frames:
            deadline = min(deadline, self._progress_at + FRAME_TIMEOUT_S, self._oldest_arriving_at + MESSAGE_TIMEOUT_S)
        return deadline

    def tick(self, now: float) -> Sequence[Event]:
        """Requests out of time get an empty answer; RemoteProtocolError when the connection itself is out of time."""
        if self._peer is None and now >= self._opened_at + HANDSHAKE_TIMEOUT_S:
            raise RemoteProtocolError(f"no Hello within {HANDSHAKE_TIMEOUT_S} s")
        if self._is_mid_message and now >= self._progress_at + FRAME_TIMEOUT_S:
            raise RemoteProtocolError(f"part of a message, and no more of it within {FRAME_TIMEOUT_S} s")
        if now >= self._oldest_arriving_at + MESSAGE_TIMEOUT_S:
            raise RemoteProtocolError(f"a message that is not here whole within {MESSAGE_TIMEOUT_S} s")
        expired = [self.broken(stream) for stream, deadline in self._deadlines.items() if deadline <= now]
        for event in expired:
            self.cancel(event.stream)
        self._next_expiry = min(self._deadlines.values(), default=math.inf)
        return expired

    def broken(self, stream: int) -> Answered:
        """What has come of the answer on `stream`, for when no more will."""
        arriving = self._arriving.get(stream)
        if arriving is None or arriving.blob is None:
            return Answered(stream, None, _EMPTY)
        return Answered(stream, None, arriving.blob[: arriving.filled].toreadonly(), arriving.message)

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself."""
        arriving_bytes = sum(arriving.blob_bytes for arriving in self._arriving.values() if arriving.blob is not None)
        assert self._arriving_bytes == arriving_bytes <= ARRIVING_BYTES_MAX, (self._arriving_bytes, arriving_bytes)
        assert self._next_expiry <= min(self._deadlines.values(), default=math.inf)
        assert not self._deadlines.keys() & self._abandoned
        assert len(self._deadlines) + len(self._abandoned) <= STREAMS_MAX
        assert not self._answering & self._arriving.keys()
        if self._is_dialer:
            assert not self._answering
            assert self._arriving.keys() <= self._deadlines.keys() | self._abandoned
        else:
            assert not self._deadlines
            assert not self._abandoned

    @property
    def _is_mid_message(self) -> bool:
        return bool(self._arriving) or not self._reader.is_between_frames

    @property
    def _oldest_arriving_at(self) -> float:
        return next(iter(self._arriving.values())).began_at if self._arriving else math.inf


def _refused(message: Refused) -> RemoteProtocolError:
    return RemoteProtocolError(f"refused by the peer: {message.reason[:REASON_CHARS_MAX]!a}")
