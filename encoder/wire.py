"""What a node and its encoder's process say to each other over a pipe.

A frame is the lengths of its head and body (two little-endian 32-bit numbers), the head (a message as msgpack), and
the body (images or features, raw). No pickle: a worker that decodes hostile images must not be able to run code in
the node.
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterable
from typing import BinaryIO

import msgspec

LENGTHS = struct.Struct("<II")
HEAD_BYTES_MAX = 1 << 20
BODY_BYTES_MAX = 1 << 30
# To the worker while it encodes: nobody waits for that any more. One that comes too late may end the next call instead,
# which is then asked for again.
STOP_SIGNAL = signal.SIGUSR1


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From the worker, once: the encoder is loaded, and this is what it is."""

    name: str
    version: str
    fingerprint: bytes
    tokens: int
    dim: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """From the worker, its last words. `is_final`: starting it again would end the same way."""

    reason: str
    is_final: bool


class Encode(msgspec.Struct, frozen=True, tag="encode"):
    """To the worker. The body is the images, one after the other, of `sizes` bytes each."""

    sizes: list[int]


class Fault(msgspec.Struct, frozen=True):
    """Why there are no features of one image: the name of an ImageError and its text."""

    error: str
    reason: str


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """From the worker: it was told by a signal that nobody waits for these images any more."""


class Encoded(msgspec.Struct, frozen=True, tag="encoded"):
    """From the worker. The body is the features of the images without a fault, float32 (tokens, dim) each."""

    faults: list[Fault | None]


Message = Ready | Failed | Encode | Stopped | Encoded

_decoder = msgspec.msgpack.Decoder(Message)


def head_of(message: Message, body_bytes: int) -> bytes:
    """The start of a frame; `body_bytes` of body follow it."""
    head = msgspec.msgpack.encode(message)
    assert len(head) <= HEAD_BYTES_MAX
    assert body_bytes <= BODY_BYTES_MAX
    return LENGTHS.pack(len(head), body_bytes) + head


def lengths_of(start: bytes) -> tuple[int, int]:
    """The bytes of head and body that follow these LENGTHS.size bytes; ValueError past the limits."""
    head, body = LENGTHS.unpack(start)
    if head > HEAD_BYTES_MAX or body > BODY_BYTES_MAX:
        raise ValueError(f"frame of {head} + {body} bytes, at most {HEAD_BYTES_MAX} + {BODY_BYTES_MAX}")
    return head, body


def message_of(head: bytes) -> Message:
    """The message in a frame's head; ValueError when it is none."""
    message: Message = _decoder.decode(head)
    return message


def write(stream: BinaryIO, message: Message, body: Iterable[bytes | memoryview] = ()) -> None:
    """Write a frame to a blocking stream: the worker's side."""
    parts = list(body)
    stream.write(head_of(message, sum(memoryview(part).nbytes for part in parts)))
    for part in parts:
        stream.write(part)
    stream.flush()


def read(stream: BinaryIO) -> tuple[Message, bytes] | None:
    """The next frame of a blocking stream, or None at its end: the worker's side."""
    start = stream.read(LENGTHS.size)
    if len(start) < LENGTHS.size:
        return None
    head_bytes, body_bytes = lengths_of(start)
    head, body = stream.read(head_bytes), stream.read(body_bytes)
    if len(head) < head_bytes or len(body) < body_bytes:
        return None
    return message_of(head), body
