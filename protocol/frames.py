"""A byte stream <-> frames: chunked, many requests at once. Sans-IO: owns no socket and never waits.

A message travels as one opening frame, which has its kind, its head (MessagePack) and the first part of its blob, and
as many DATA frames as the rest of the blob needs. No frame has more of a blob than a chunk, and short messages
alternate with the chunks of long ones: a small answer waits for one chunk of a large one, however many those are.
Header, little-endian:

    0  body bytes u32     4  kind u8     5  coding u8   6  head bytes u16     8  stream u32     12  blob bytes u32

`blob bytes` is the size of the whole blob in the opening frame, and zero in a DATA frame. Where `coding` is 1, not 0,
the frame's part of the blob is coded (`coding.py`), and counted so in `body bytes`, but not in `blob bytes`. All of it
is checked against the limits before anything is allocated for it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .coding import Coder, unpack
from .errors import RemoteProtocolError

DATA = 0
PLAIN, CODED = 0, 1

# Features of a usual size go in one frame, and most of it is received straight into the memory where it stays. With
# chunks of 64 KB a receiver needed a fifth longer for 64 features of 151 KB in flight.
CHUNK_BYTES = 256 * 1024
SHORT_BYTES_MAX = 64 * 1024
HEAD_BYTES_MAX = 65_535
BODY_BYTES_MAX = HEAD_BYTES_MAX + CHUNK_BYTES
# Parts of a blob that are smaller than this are copied together with their header: one buffer costs less than two.
_JOINED_BYTES_MAX = 8 * 1024
# What is received is copied from here while it is still in the core's own cache.
_READ_BYTES = 64 * 1024
# A frame of which less is missing is waited for.
_SPLIT_BYTES_MIN = 8 * 1024

HEADER = struct.Struct("<IBBHII")
HEADER_BYTES = HEADER.size
# What is received into. Most connections never need more than the first, since the rest of a large frame is received
# elsewhere; where many small frames come at once, they are read together. Who has just connected may say anything: with
# more room all of it is read, and the connection does not break before the other side has heard what was wrong.
_READER_BYTES = (1024, 8 * 1024, HEADER_BYTES + BODY_BYTES_MAX)

# How others begin who come to this port by mistake, read as the size of a frame.
_STRANGERS = {b"\x16\x03": " (it speaks TLS: is its node run with --cluster-key?)"} | dict.fromkeys(
    (b"GE", b"PO", b"PU", b"HE"), " (it speaks HTTP: this is the port for peers)"
)

Buffer = bytes | bytearray | memoryview


def uninitialized(size: int) -> memoryview:
    """Writable memory that the system gives as it is filled: what a peer announces costs nothing until it comes."""
    return np.empty(size, np.uint8).data


class Frame(NamedTuple):
    """One frame. `head` and `piece` are views that hold only until the reader is fed again."""

    kind: int
    stream: int
    head: memoryview
    blob_bytes: int
    piece: memoryview
    missing: int = 0
    """Bytes of the piece that are not here yet; only of a frame that was split."""


class FrameReader:
    """Turns received bytes into frames.

    The owner receives straight into `buffer()`, says with `received` how much came, and uses the frames that this
    completes before it asks for the next `buffer()`: they are views of it.

    A large frame that is partly here can be `split`: its rest then comes as a DATA frame of each read, or the owner
    receives some of it elsewhere and says so with `received_elsewhere`.
    """

    def __init__(self, blob_bytes_max: int) -> None:
        self._blob_bytes_max = blob_bytes_max
        self._view = uninitialized(_READER_BYTES[1])
        self._start = 0  # of what no frame has been made of yet
        self._end = 0
        self._is_too_small = False
        self.split_stream = 0
        self.missing = 0
        """Bytes of the frame that was split, on `split_stream`, that are still to come."""

    def buffer(self) -> memoryview:
        """Where the next received bytes belong; never empty, since a whole frame fits."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start:
            rest = self._end - self._start
            self._view[:rest] = self._view[self._start : self._end]
            self._start, self._end = 0, rest
        if self._end == len(self._view) or self._is_too_small:  # it may be part of a frame that is received whole
            view = uninitialized(next(size for size in _READER_BYTES if size > len(self._view)))
            view[: self._end] = self._view[: self._end]
            self._view, self._is_too_small = view, False
        return self._view[self._end : _READ_BYTES if self._end < _READ_BYTES else None]

    def settle(self) -> None:
        """From now on frames are expected that are small, or received elsewhere."""
        if self._start == self._end:
            self._view = uninitialized(_READER_BYTES[0])

    @property
    def is_between_frames(self) -> bool:
        """Whether no part of a frame is waiting for its rest."""
        return self._start == self._end and not self.missing

    def received(self, count: int) -> list[Frame]:
        """The frames that `count` more bytes in `buffer()` complete; RemoteProtocolError for what none would send."""
        view, at = self._view, self._start
        end = self._end = self._end + count
        frames = []
        if self.missing:
            rest_at, at = at, min(end, at + self.missing)
            self.missing -= at - rest_at
            frames.append(Frame(DATA, self.split_stream, view[:0], 0, view[rest_at:at], self.missing))
        while end - at >= HEADER_BYTES:
            body_bytes, kind, coding, head_bytes, stream, blob_bytes = HEADER.unpack_from(view, at)
            if (
                body_bytes > BODY_BYTES_MAX
                or head_bytes > body_bytes
                or coding > CODED
                or blob_bytes > self._blob_bytes_max
            ):
                raise RemoteProtocolError(self._complaint(body_bytes, coding, head_bytes, blob_bytes))
            head_at = at + HEADER_BYTES
            piece_at, next_at = head_at + head_bytes, head_at + body_bytes
            if next_at > end:
                break
            piece = view[piece_at:next_at]
            if coding == CODED:
                piece = memoryview(unpack(piece, CHUNK_BYTES))
            frames.append(Frame(kind, stream, view[head_at:piece_at], blob_bytes, piece))
            at = next_at
        self._start = at
        if end == len(view) < _READER_BYTES[-1] and len(frames) > 1:
            self._is_too_small = True
        return frames

    def split(self) -> Frame | None:
        """What is here of a large frame that is partly here, with all of its head; None when there is no such frame.

        A coded one can only be unpacked whole.
        """
        view, at, end = self._view, self._start, self._end
        if end - at < HEADER_BYTES or self.missing:
            return None
        body_bytes, kind, coding, head_bytes, stream, blob_bytes = HEADER.unpack_from(view, at)  # checked by `received`
        head_at = at + HEADER_BYTES
        piece_at = head_at + head_bytes
        missing = head_at + body_bytes - end
        if piece_at > end or missing < _SPLIT_BYTES_MIN or coding == CODED:
            return None
        self._start, self.split_stream, self.missing = end, stream, missing
        if len(view) < _READER_BYTES[-1] and HEADER_BYTES + body_bytes <= _READ_BYTES:
            self._is_too_small = True
        return Frame(kind, stream, view[head_at:piece_at], blob_bytes, view[piece_at:end], missing)

    def received_elsewhere(self, count: int) -> None:
        """Of the frame that was split, `count` more bytes came, and not into `buffer()`."""
        assert count <= self.missing
        self.missing -= count

    def feed(self, data: Buffer) -> list[Frame]:
        """Frames from bytes that lie elsewhere, copied."""
        frames: list[Frame] = []
        view = memoryview(data)
        while view:
            buffer = self.buffer()
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            view = view[count:]
            for frame in self.received(count):
                head, piece = memoryview(bytes(frame.head)), memoryview(bytes(frame.piece))
                frames.append(frame._replace(head=head, piece=piece))
        return frames

    def _complaint(self, body_bytes: int, coding: int, head_bytes: int, blob_bytes: int) -> str:
        if body_bytes > BODY_BYTES_MAX:
            stranger = _STRANGERS.get(body_bytes.to_bytes(4, "little")[:2], "")
            return f"frame of {body_bytes} bytes, at most {BODY_BYTES_MAX}{stranger}"
        if coding > CODED:
            return f"frame coded by {coding}: there are {PLAIN} and {CODED}"
        if head_bytes > body_bytes:
            return f"frame of {body_bytes} bytes with a head of {head_bytes}"
        return f"blob of {blob_bytes} bytes, at most {self._blob_bytes_max}"


class _Outgoing:
    """One message that is being sent, and how far."""

    __slots__ = ("blob", "blob_bytes", "head", "is_coded", "kind", "left", "stream")

    def __init__(
        self, kind: int, stream: int, head: bytes, blob: Sequence[Buffer], blob_bytes: int, is_coded: bool
    ) -> None:
        self.kind = kind
        self.stream = stream
        self.head = head
        self.blob = deque(memoryview(part) for part in blob)
        self.blob_bytes = blob_bytes
        self.left = blob_bytes
        self.is_coded = is_coded

    def next_frame(self, out: list[Buffer], coder: Coder | None) -> int:
        """Append the next frame's buffers to `out`; how many bytes they have."""
        size = min(self.left, CHUNK_BYTES)
        self.left -= size
        parts = self._next_parts(size)
        coding = PLAIN
        if coder is not None and not self.is_coded and (coded := coder.coded(parts, size)) is not None:
            parts, size, coding = [coded], len(coded), CODED
        if self.kind == DATA:
            out.append(HEADER.pack(size, DATA, coding, 0, self.stream, 0))
            sent = HEADER_BYTES + size
        else:
            head_bytes = len(self.head)
            header = HEADER.pack(head_bytes + size, self.kind, coding, head_bytes, self.stream, self.blob_bytes)
            out.append(header + self.head)
            sent = HEADER_BYTES + head_bytes + size
            self.kind = DATA  # what follows
        out += parts
        return sent

    def _next_parts(self, size: int) -> list[Buffer]:
        """The next `size` bytes of the blob."""
        parts: list[Buffer] = []
        while size:
            part = self.blob[0]
            if len(part) <= size:
                parts.append(self.blob.popleft())
                size -= len(part)
            else:
                parts.append(part[:size])
                self.blob[0] = part[size:]
                size = 0
        return parts


class FrameWriter:
    """Turns messages into frames.

    Small messages go first. Other short ones alternate with the chunks of long ones, so that neither holds up the
    other, and the long ones take turns.

    Blobs that are partly sent have at most `underway_bytes_max` together, a single one apart: the other side keeps room
    for no more. A blob beyond that waits, and smaller ones pass it.

    Where it is given a `coder`, what that thinks worth it is coded.
    """

    def __init__(self, underway_bytes_max: int) -> None:
        self.coder: Coder | None = None
        self._underway_bytes_max = underway_bytes_max
        self._underway_bytes = 0
        self._ready: list[Buffer] = []  # small messages, whole
        self._ready_bytes = 0
        self.pending_bytes = 0
        """Bytes that wait to be taken."""
        self._short: deque[_Outgoing] = deque()  # one frame each
        self._long: deque[_Outgoing] = deque()  # it is the first one's turn

    @property
    def pending_messages(self) -> int:
        """Messages of which not everything was taken."""
        return len(self._ready) + len(self._short) + len(self._long)

    def send(
        self,
        kind: int,
        stream: int,
        head: bytes,
        blob: Sequence[Buffer] = (),
        blob_bytes: int = 0,
        *,
        is_coded: bool = False,
    ) -> None:
        """Queue a message; the blob's buffers are kept, not copied, until they are taken, unless it is small.

        One that `is_coded` goes as it is.
        """
        assert len(head) <= HEAD_BYTES_MAX, f"head of {len(head)} bytes, at most {HEAD_BYTES_MAX}"
        if blob_bytes <= _JOINED_BYTES_MAX or blob_bytes <= min(SHORT_BYTES_MAX, _JOINED_BYTES_MAX * len(blob)):
            header = HEADER.pack(len(head) + blob_bytes, kind, 0, len(head), stream, blob_bytes)
            frame = b"".join((header, head, *blob))
            self._ready.append(frame)
            self._ready_bytes += len(frame)
            self.pending_bytes += len(frame)
        else:
            queue = self._short if blob_bytes <= SHORT_BYTES_MAX else self._long
            queue.append(_Outgoing(kind, stream, head, blob, blob_bytes, is_coded))
            self.pending_bytes += blob_bytes

    def drop(self, stream: int) -> bool:
        """Forget the rest of what is being sent on `stream`, if nothing of it has been taken yet."""
        for queue in (self._short, self._long):
            for outgoing in queue:
                if outgoing.stream == stream and outgoing.kind != DATA:
                    queue.remove(outgoing)
                    self.pending_bytes -= outgoing.left
                    return True
        return False

    def cut(self, stream: int) -> bool:
        """Forget the rest of a long blob that is partly sent on `stream`; the other side has to be told."""
        for outgoing in self._long:
            if outgoing.stream == stream and outgoing.kind == DATA:
                self._long.remove(outgoing)
                self.pending_bytes -= outgoing.left
                self._underway_bytes -= outgoing.blob_bytes
                return True
        return False

    def take(self, bytes_wanted: int) -> list[Buffer]:
        """Buffers to send now: all small messages, then chunks until there are `bytes_wanted`."""
        out, taken = self._ready, self._ready_bytes
        self._ready, self._ready_bytes = [], 0
        self.pending_bytes -= taken
        if len(out) > 1:
            out = [b"".join(out)]
        while taken < bytes_wanted and (self._short or self._long):
            if self._short:
                outgoing = self._short.popleft()
                taken += outgoing.next_frame(out, self.coder)
                self.pending_bytes -= outgoing.blob_bytes
            if self._long:
                taken += self._take_chunk(out)
        return out

    def _take_chunk(self, out: list[Buffer]) -> int:
        """Append a chunk of the long message whose turn it is to `out`; how many bytes that is."""
        while (outgoing := self._long[0]).kind != DATA:
            underway_bytes = self._underway_bytes + outgoing.blob_bytes
            if not self._underway_bytes or underway_bytes <= self._underway_bytes_max:
                self._underway_bytes = underway_bytes
                break
            self._long.rotate(-1)  # what is under way is in the queue as well, so this ends
        left = outgoing.left
        taken = outgoing.next_frame(out, self.coder)
        self.pending_bytes -= left - outgoing.left
        if not outgoing.left:
            self._long.popleft()
            self._underway_bytes -= outgoing.blob_bytes
        else:
            self._long.rotate(-1)
        return taken
