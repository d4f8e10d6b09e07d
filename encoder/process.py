"""The node's end of one worker process: start it, ask it, end it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import (
    EdgeCacheError,
    EncoderUnavailable,
    ImageError,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedImage,
)
from ..protocol.keys import EncoderIdentity
from . import wire
from .spec import Description

LOAD_TIMEOUT_S = 600.0  # a large model may have to come from the hub first
ENCODE_TIMEOUT_S = 120.0  # 8 images of 64 megapixels through a large model on a slow board; beyond it, it hangs
ENDING_TIMEOUT_S = 1.0  # between the end of its output and its exit status
LOG_LINE_BYTES_MAX = 1 << 16

Outcome = NDArray[np.float32] | ImageError | EncoderUnavailable

_IMAGE_ERRORS = {error.__name__: error for error in (UnsupportedImage, UndecodableImage, ImageTooLarge)}

_log = logging.getLogger(__name__)


class WorkerFailed(Exception):
    """This process is of no more use. `is_final`: neither is another one."""

    def __init__(self, reason: str, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class WorkerProcess:
    """One process with one encoder in it. Every method may raise WorkerFailed, after which only `kill` remains."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._to, self._from = process.stdin, process.stdout
        self._exit = asyncio.create_task(process.wait())
        self._logging = asyncio.create_task(_log_lines(process.stderr))

    @property
    def id(self) -> int:
        """The operating system's number for it."""
        return self._process.pid

    @classmethod
    async def spawn(cls, spec: str, threads: int) -> WorkerProcess:
        """Start a process that loads `spec` and computes with `threads` threads."""
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            # With one core busy, threads that spin while they wait took 1,531 ms an image instead of 150: yield.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "edgecache.encoder.worker_main", spec, str(threads)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                cwd=_where_it_runs(),
                limit=LOG_LINE_BYTES_MAX,
                # Ctrl-C at the terminal is for the node, which ends this process in its own good time.
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerFailed(f"its process does not start: {error}") from error
        return cls(process)

    async def load(self) -> Description:
        """Wait until the encoder is loaded, and say what it is."""
        message, _ = await self._receive(LOAD_TIMEOUT_S)
        if not isinstance(message, wire.Ready) or message.tokens < 1 or message.dim < 1:
            raise WorkerFailed(f"its process began with {_shown(message)}")
        try:
            identity = EncoderIdentity(message.name, message.version, message.fingerprint)
        except EdgeCacheError as error:
            raise WorkerFailed(str(error), is_final=True) from error
        return Description(identity, (message.tokens, message.dim))

    async def encode(self, images: Sequence[bytes], shape: tuple[int, int]) -> list[Outcome] | None:
        """The outcome of each image: features of `shape`, finite and read-only, or what is wrong with it.

        None if it was stopped.
        """
        self._to.write(wire.head_of(wire.Encode([len(image) for image in images]), sum(map(len, images))))
        self._to.writelines(images)  # if the process is gone, its silence says so
        message, body = await self._receive(ENCODE_TIMEOUT_S)
        if isinstance(message, wire.Stopped):
            return None
        if not isinstance(message, wire.Encoded) or len(message.faults) != len(images):
            raise WorkerFailed(f"its process answered {len(images)} images with {_shown(message)}")
        made = sum(fault is None for fault in message.faults)
        if len(body) != made * shape[0] * shape[1] * 4:
            raise WorkerFailed(f"its process sent {len(body)} bytes for {made} features of shape {shape}")
        features = iter(np.frombuffer(body, dtype="<f4").reshape(made, *shape))
        return [_finite(next(features)) if fault is None else _error_of(fault) for fault in message.faults]

    def stop(self) -> None:
        """Nobody waits for what it encodes now. It answers as soon as it can, perhaps with the features."""
        if self._process.returncode is None:
            self._process.send_signal(wire.STOP_SIGNAL)

    async def live_until(self, event: asyncio.Event) -> None:
        """Wait for `event`; raise WorkerFailed if the process ends while there is nothing to do."""
        happening = asyncio.create_task(event.wait())
        try:
            await asyncio.wait([happening, self._exit], return_when=asyncio.FIRST_COMPLETED)
        finally:
            happening.cancel()
        if not event.is_set():
            raise WorkerFailed(f"its process ended: {await self._ending()}")

    async def kill(self) -> None:
        """End the process; it holds nothing that would be lost."""
        if self._process.returncode is None:
            self._process.kill()
        await self._exit
        self._to.close()
        # What it started itself may live on and hold its standard error open.
        await asyncio.wait([self._logging], timeout=ENDING_TIMEOUT_S)
        self._logging.cancel()

    async def _receive(self, timeout_s: float) -> tuple[wire.Message, bytes]:
        try:
            async with asyncio.timeout(timeout_s):
                head_bytes, body_bytes = wire.lengths_of(await self._from.readexactly(wire.LENGTHS.size))
                message = wire.message_of(await self._from.readexactly(head_bytes))
                body = await self._from.readexactly(body_bytes)
        except TimeoutError:
            raise WorkerFailed(f"its process did not answer in {timeout_s:g} s") from None
        except (asyncio.IncompleteReadError, OSError):
            raise WorkerFailed(f"its process ended: {await self._ending()}") from None
        except ValueError as error:
            raise WorkerFailed(f"its process sent no message: {error}") from error
        if isinstance(message, wire.Failed):
            raise WorkerFailed(_printable(message.reason), message.is_final)
        return message, body

    async def _ending(self) -> str:
        await asyncio.wait([self._exit], timeout=ENDING_TIMEOUT_S)
        if not self._exit.done():
            return "it closed its standard output"
        status = self._exit.result()
        return f"exit status {status}" if status >= 0 else f"signal {-status}"


def _finite(features: NDArray[np.float32]) -> Outcome:
    if np.isfinite(features).all():
        return features
    return EncoderUnavailable("the encoder made features that are not finite")


def _error_of(fault: wire.Fault) -> ImageError:
    return _IMAGE_ERRORS.get(fault.error, ImageError)(fault.reason)


def _shown(message: wire.Message) -> str:
    return f"{message!r:.200}"


def _printable(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _where_it_runs() -> str | None:
    """Where this process does, or, when that directory is gone, one that stays: MKL ends a process that has none."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return os.sep
    return None


async def _log_lines(stderr: asyncio.StreamReader) -> None:
    """Pass what the worker's libraries print on to the node's log."""
    while True:
        try:
            line = await stderr.readline()
        except ValueError:  # longer than LOG_LINE_BYTES_MAX; the reader has dropped it
            continue
        if not line:
            return
        _log.info("worker: %s", _printable(line.decode(errors="replace").rstrip()))
