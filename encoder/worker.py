"""The encoder as the node sees it: images in, features out, whatever happens to the process that makes them."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import EncoderUnavailable, ImageTooLarge, InvalidValue
from .batching import Batcher
from .process import Outcome, WorkerFailed, WorkerProcess
from .spec import Description, identity_of

BATCH_IMAGES_MAX = 8
# What one call should take: an image that comes just after it began waits no longer than that for the next, and a small
# model's call has several images all the same.
BATCH_TARGET_S = 0.25
BATCH_BYTES_MAX = 256 << 20
WAITING_IMAGES_MAX = 64
WAITING_BYTES_MAX = 256 << 20
THREADS_MAX = 4  # a small model gains little from more, and the device has other work

# The first restart is immediate, since most crashes have one image to blame. Failures in a row are then 0.5, 1, 2 ...
# seconds apart: a model too large for this device's memory must not keep it busy with loading.
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
LOAD_S = 2.0  # about what loading takes: to come back sooner is of no use

STOPS_SOON_SHARE = 0.1  # of a call: an encoder that stops within that is as good as free

_log = logging.getLogger(__name__)


class EncoderWorker:
    """Encodes images in one process of its own, and restarts that process when it fails.

    Requests that come while it is busy go together as soon as it is free, as many as fit into BATCH_TARGET_S
    (`encoder/batching.py`); none is held back to fill a batch. `known` says what the encoder is, as soon as that is
    known.
    """

    def __init__(self, spec: str, *, threads: int | None = None) -> None:
        """InvalidValue for a wrong `spec`. `threads` defaults to all cores but one, 4 at most. Starts nothing."""
        if threads is not None and threads < 1:
            raise InvalidValue(f"{threads} encoder threads, at least 1")
        self.known: Description | None = identity_of(spec)
        self._spec = spec
        self._threads = threads if threads is not None else max(1, min(THREADS_MAX, len(os.sched_getaffinity(0)) - 1))
        self._waiting: Batcher[_Request] = Batcher(
            target_s=BATCH_TARGET_S, images_max=BATCH_IMAGES_MAX, bytes_max=BATCH_BYTES_MAX
        )
        self._encoding: list[_Request] = []
        self._process: WorkerProcess | None = None  # while it encodes, and may be stopped
        self._stopped_at: float | None = None
        self._stops_soon = True  # until it is seen not to
        self._call_s = 0.0  # what the last call took
        self._arrived = asyncio.Event()
        self._failure: _Failure | None = None
        self._failures_in_a_row = 0
        self._settled = asyncio.Event()  # set once the encoder is loaded, or has failed
        self._life: asyncio.Task[None] | None = None
        self._is_closed = False
        self._process_id: int | None = None

    @property
    def process_id(self) -> int | None:
        """Of the process that encodes now, if there is one: for measuring it."""
        return self._process_id

    @property
    def is_finishing(self) -> bool:
        """Whether it goes on with images that nobody waits for any more, and the next one has to wait for that."""
        return self._stopped_at is not None and not self._stops_soon

    async def start(self) -> None:
        """Begin to load the encoder and return at once; what goes wrong is told to those who ask for features."""
        if self._life is None and not self._is_closed:
            self._life = asyncio.create_task(self._live())
            self._life.add_done_callback(self._ended)

    async def described(self) -> Description:
        """What the encoder is, after waiting for it to load where that is needed. EncoderUnavailable if it cannot."""
        if self.known is not None:
            return self.known
        await self.start()
        self._refuse_if_unavailable()
        await self._settled.wait()
        self._refuse_if_unavailable()
        assert self.known is not None
        return self.known

    async def encode(self, image: bytes) -> NDArray[np.float32]:
        """The features of an image file, float32 (tokens, dim), read-only.

        Raises UnsupportedImage, UndecodableImage or ImageTooLarge for a wrong image, and EncoderUnavailable when the
        worker failed, has failed too often of late, or has too much waiting already.
        """
        if len(image) > WAITING_BYTES_MAX:
            raise ImageTooLarge(f"image of {len(image)} bytes, at most {WAITING_BYTES_MAX}")
        await self.start()
        self._refuse_if_unavailable()
        if len(self._waiting) >= WAITING_IMAGES_MAX or self._waiting.waiting_bytes + len(image) > WAITING_BYTES_MAX:
            raise EncoderUnavailable(
                f"{len(self._waiting)} images of {self._waiting.waiting_bytes} bytes wait for the encoder, "
                f"at most {WAITING_IMAGES_MAX} of {WAITING_BYTES_MAX} bytes"
            )
        loop = asyncio.get_running_loop()
        request = _Request(image, loop.create_future())
        self._waiting.add(loop.time(), request, len(image))
        self._arrived.set()
        try:
            outcome = await request.outcome
        finally:
            self._waiting.remove(request)  # its turn came, or its caller has gone
            self._stop_if_nobody_waits()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self) -> None:
        """End the process; what waits gets EncoderUnavailable. Closing twice is fine."""
        self._is_closed = True
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])

    async def _live(self) -> None:
        """One process after the other, until `close` or a failure that another process cannot mend."""
        while True:
            try:
                await self._run_one_process()
            except WorkerFailed as failed:
                delay_s = self._note_failure(failed)
                if failed.is_final:
                    return
                await asyncio.sleep(delay_s)
                self._failure = None
                self._settled.clear()

    def _ended(self, _life: asyncio.Task[None]) -> None:
        """Whatever ended it (`close`, a final failure, a bug), nobody waits for ever."""
        self._failure = self._failure or _Failure("the encoder is closed", BACKOFF_MAX_S)
        self._settled.set()
        self._fail_requests(self._failure)

    async def _run_one_process(self) -> None:
        loop = asyncio.get_running_loop()
        process = await WorkerProcess.spawn(self._spec, self._threads)
        self._process_id = process.id
        try:
            description = await process.load()
            if self.known is not None and description != self.known:
                raise WorkerFailed("its weights have changed since the node started: restart the node", is_final=True)
            self.known = description
            self._settled.set()
            while True:
                while not self._waiting:
                    self._arrived.clear()
                    await process.live_until(self._arrived)
                started = loop.time()
                self._encoding = self._waiting.take(started)
                if (outcomes := await self._outcomes(process, description.shape)) is not None:
                    self._call_s = loop.time() - started
                    self._waiting.took(self._call_s, len(outcomes))
                    for request, outcome in zip(self._encoding, outcomes, strict=True):
                        request.resolve(outcome)
                self._encoding = []
                self._failures_in_a_row = 0
        finally:
            self._process_id = None
            await process.kill()

    async def _outcomes(self, process: WorkerProcess, shape: tuple[int, int]) -> list[Outcome] | None:
        """What becomes of the images whose turn it is; None where all who wanted them have gone meanwhile."""
        images = [request.image for request in self._encoding]
        try:
            # Before the first call is answered it is not stopped: there a model makes what all later calls use.
            self._process = process if self._call_s else None
            while (outcomes := await process.encode(images, shape)) is None and self._somebody_waits():
                pass  # it was told too late to stop the call before this one
            if self._stopped_at is not None:
                stopping_s = asyncio.get_running_loop().time() - self._stopped_at
                self._stops_soon = stopping_s <= STOPS_SOON_SHARE * self._call_s
            return outcomes if self._stopped_at is None else None
        finally:
            self._process = self._stopped_at = None

    def _somebody_waits(self) -> bool:
        return any(not request.outcome.done() for request in self._encoding)

    def _stop_if_nobody_waits(self) -> None:
        """The next image would have to wait for what is of no use."""
        if self._process is not None and self._stopped_at is None and not self._somebody_waits():
            self._stopped_at = asyncio.get_running_loop().time()
            self._process.stop()

    def _note_failure(self, failed: WorkerFailed) -> float:
        """Tell those who wait; the seconds until the next process."""
        self._failures_in_a_row += 1
        delay_s = 0.0
        if self._failures_in_a_row > 1:
            delay_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** (self._failures_in_a_row - 2))
        _log.warning(
            "encoder %s: %s; %s", self._spec, failed, "giving up" if failed.is_final else f"restarting in {delay_s:g} s"
        )
        failure = _Failure(f"encoder {self._spec}: {failed}", BACKOFF_MAX_S if failed.is_final else delay_s + LOAD_S)
        if failed.is_final or delay_s > 0:
            self._failure = failure
            self._settled.set()
        self._fail_requests(failure)
        return delay_s

    def _fail_requests(self, failure: _Failure) -> None:
        failed = [*self._encoding, *self._waiting.clear()]
        self._encoding = []
        for request in failed:
            request.resolve(failure.error())

    def _refuse_if_unavailable(self) -> None:
        if self._failure is not None:
            raise self._failure.error()
        if self._is_closed:
            raise EncoderUnavailable("the encoder is closed")


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why there is no worker for now, and for how long."""

    reason: str
    retry_after_s: float

    def error(self) -> EncoderUnavailable:
        return EncoderUnavailable(self.reason, self.retry_after_s)


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    image: bytes = field(repr=False)
    outcome: asyncio.Future[Outcome]

    def resolve(self, outcome: Outcome) -> None:
        if not self.outcome.done():  # its caller may have gone
            self.outcome.set_result(outcome)
