"""The worker process: `python -m edgecache.encoder.worker_main SPEC [THREADS]` loads an encoder, answers on its pipes.

A process of its own, because a forward pass can hold the interpreter's lock for seconds, run out of memory or crash in
a native library, and none of that may cost the node its heartbeats or its hits.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from types import FrameType
from typing import BinaryIO

import numpy as np

from ..protocol.errors import EdgeCacheError, ImageError, InvalidValue
from . import wire
from .load import Encoder, load

REASON_CHARS_MAX = 1000

# The node's heartbeats and hits come first: with five workers loading at once on two cores, an event loop beside them
# was 13 to 18 ms late at worst, and 15 to 33 ms without this. Where a core is free it costs nothing.
NICENESS = 5


class _Stop(BaseException):
    """Nobody waits for what is encoded now. No Exception: an encoder that catches those must let it pass."""


class _Stopping:
    """Ends a call of the encoder at the signal wire.STOP_SIGNAL, and nothing else.

    Python hears a signal between two steps of its own: between two operations of a torch model, after the whole forward
    pass where one call of a native library makes it.
    """

    def __init__(self) -> None:
        self.is_allowed = False
        signal.signal(wire.STOP_SIGNAL, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_allowed:
            self.is_allowed = False
            raise _Stop


def main() -> int:
    """Serve until standard input ends; its other end is the node's."""
    _die_with_the_parent()
    os.nice(NICENESS)
    stopping = _Stopping()
    frames_in, frames_out = sys.stdin.buffer, _claim_stdout()
    try:
        encoder = load(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
        wire.write(frames_out, _ready(encoder))
        while (frame := wire.read(frames_in)) is not None:
            _answer(encoder, stopping, frames_out, *frame)
    except BrokenPipeError:  # the node is gone
        return 0
    except Exception as error:
        # A fresh process is the only state known to be good: say why, and let the node start one.
        if not isinstance(error, InvalidValue) or sys.argv[1].startswith("module:"):  # an error of a program
            traceback.print_exc()
        reason = str(error) if isinstance(error, EdgeCacheError) else f"{type(error).__name__}: {error}"
        is_final = isinstance(error, InvalidValue | ImportError)
        wire.write(frames_out, wire.Failed(reason[:REASON_CHARS_MAX], is_final))
        return 1
    return 0


def _ready(encoder: Encoder) -> wire.Ready:
    identity = encoder.identity
    return wire.Ready(identity.name, identity.version, identity.fingerprint, *encoder.shape)


def _answer(encoder: Encoder, stopping: _Stopping, frames_out: BinaryIO, request: wire.Message, body: bytes) -> None:
    assert isinstance(request, wire.Encode)
    images, start = [], 0
    for size in request.sizes:
        images.append(body[start : start + size])
        start += size
    try:
        stopping.is_allowed = True
        outcomes = encoder.encode_batch(images)
        stopping.is_allowed = False
    except _Stop:
        wire.write(frames_out, wire.Stopped())
        return
    faults: list[wire.Fault | None] = []
    features: list[memoryview] = []
    for outcome in outcomes:
        if isinstance(outcome, ImageError):
            faults.append(wire.Fault(type(outcome).__name__, str(outcome)[:REASON_CHARS_MAX]))
            continue
        if outcome.shape != encoder.shape or outcome.dtype != np.float32:
            raise InvalidValue(
                f"encoder {encoder.identity}: features of shape {outcome.shape} and type {outcome.dtype}, "
                f"expected {encoder.shape} and float32"
            )
        faults.append(None)
        features.append(np.ascontiguousarray(outcome, dtype="<f4").data)
    wire.write(frames_out, wire.Encoded(faults), features)


def _claim_stdout() -> BinaryIO:
    """Keep standard output for frames, and send what libraries print to standard error."""
    frames_out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return frames_out


def _die_with_the_parent() -> None:
    """End with the node even while busy, when nobody reads that standard input has ended."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
