"""The cloud as the last tier: asked when nobody near has something, written to behind everything else.

    get      what waits to be written is answered from there; what was missing a moment ago is not asked for again
    put      waits in a bounded queue (cloud_queue.py), and is written when it is its turn
    remove   waits there too, before all puts

A cloud is far, slow, and out now and then. A breaker stops asking one that fails, writes wait for it, and nothing near
waits for any of that. Where it is asked about is the node's to decide: `pays` says whether it is worth it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ...protocol.cloud.objects import ObjectStoreError
from ...protocol.errors import CorruptPayload
from ...protocol.keys import DIGEST_BYTES, PACKED_KEY_BYTES, EncoderIdentity
from ...protocol.payload import parse
from ..breaker import Breaker, BreakerState
from .cloud_queue import Kind, Write, WriteQueue
from .cloud_worth import CloudWorth

if TYPE_CHECKING:
    from ...protocol.cloud.objects import Buffer

# A read that takes longer counts as a failure: by then, who asked for it has gone. It may go on behind, for the next.
SLOW_S = 5.0
READ_TIMEOUT_S = 30.0
WRITE_TIMEOUT_S = 30.0  # and the time that its bytes take on a slow uplink
UPLINK_BYTES_PER_S = 50_000
WRITERS = 4
# Between attempts of one writer while the breaker is closed yet.
RETRY_S = 0.5
# What was not there is not asked for again so soon: somebody near would have it, had it been made meanwhile.
MISSING_S = 60.0
MISSING_MAX = 16_384
# What is waited for at the end, as far as the cloud answers.
CLOSE_TIMEOUT_S = 5.0
_ENCODERS_MAX = 1024

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class Remote(Protocol):
    """Whatever keeps features far away. Methods raise ObjectStoreError when they cannot do it now."""

    def is_known(self, key: bytes) -> bool:
        """Whether `key` is sure to be there, as far as that can be told without asking."""

    async def get(self, key: bytes) -> Buffer | None:
        """The bytes of `key`; None when it is not there."""

    async def has(self, key: bytes) -> bool:
        """Whether `key` is there."""

    async def encoders(self) -> list[EncoderIdentity]:
        """The encoders of which it has features, as far as it tells."""

    async def put(self, key: bytes, data: memoryview, age_s: float, *, must_replace: bool) -> bool:
        """Write what this node was given `age_s` ago; False when there was no need to.

        `must_replace`: what may be there under `key` already is older, and would be wrong.
        """

    async def remove(self, keys: Sequence[bytes]) -> int:
        """Remove keys; how many there were."""

    async def remove_image(self, digest: bytes) -> int:
        """Remove every key of an image; how many there were."""

    async def remove_encoder(self, encoder: bytes) -> int:
        """Remove everything of the encoder whose identity has that digest; how many there were."""

    async def close(self) -> None:
        """End what is under way."""


class CloudTier:
    """One remote as a `Tier`. It never says that it holds a key: what is there can change without a word."""

    capacity_bytes = 0
    used_bytes = 0

    def __init__(self, remote: Remote, *, now: Callable[[], float], rng: random.Random, queue: WriteQueue) -> None:
        self.uploads = 0
        self.uploads_skipped = 0
        self.removals = 0
        self.write_failures = 0
        self.breaker = Breaker(rng)
        self._remote = remote
        self._now = now
        self._rng = rng
        self._queue = queue
        self._worth = CloudWorth()
        self._missing: OrderedDict[bytes, float] = OrderedDict()
        self._encoders: list[EncoderIdentity] = []  # as of `_encoders_at`
        self._encoders_at = -math.inf
        self._asking_encoders = asyncio.Lock()
        self._is_declared: dict[bytes, bool] = {}
        self._removals: dict[Write, asyncio.Future[int]] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()  # the writers that have nothing to write
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_closed = False
        self._writers = [asyncio.ensure_future(self._write_on()) for _ in range(WRITERS)]
        for writer in self._writers:
            writer.add_done_callback(_writer_ended)

    # -- what a tier tells --------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return 0

    def __contains__(self, key: object) -> bool:
        return False

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def keys_of_image(self, digest: bytes) -> list[bytes]:
        """None that is known here."""
        return []

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be written, or are being written."""
        return self._queue.queued_bytes

    @property
    def is_degraded(self) -> bool:
        """Whether it has not answered of late."""
        return self.breaker.state is not BreakerState.CLOSED

    def told(self) -> dict[str, Any]:
        """What it has counted, for GET /v1/stats."""
        return {
            "state": str(self.breaker.state),
            "degraded": int(self.is_degraded),
            "breaker_opened": self.breaker.times_opened,
            "queued": len(self._queue),
            "uploads": self.uploads,
            "uploads_skipped": self.uploads_skipped,
            "uploads_dropped": self._queue.dropped_puts,
            "removals": self.removals,
            "removals_dropped": self._queue.dropped_removals,
            "write_failures": self.write_failures,
        }

    # -- reading ------------------------------------------------------------------------------------------------

    def pays(self, key: bytes, instead_s: float | None) -> bool:
        """Whether to ask for `key`, for who could encode in `instead_s`, or has nothing else to try."""
        if (write := self._queue.pending(key)) is not None:
            return write.kind is Kind.PUT
        now = self._now()
        if self._is_missing(key, now) or not self.breaker.would_allow(now):
            return False
        return instead_s is None or self._worth.pays(now, instead_s, is_known=self._remote.is_known(key))

    @property
    def miss_s(self) -> float:
        """How long it is expected to take to say that it has not got something."""
        return self._worth.miss_s(self._now())

    async def get(self, key: bytes) -> Buffer | None:
        """The bytes of `key`, not checked yet; None when it is not there. OSError when that cannot be told now."""
        if (write := self._queue.pending(key)) is not None:
            return write.data
        if self._is_missing(key, self._now()):
            return None
        data = await self._answer(self._remote.get(key))
        if data is None and self._queue.pending(key) is None:
            self._missing[key] = self._now()
            if len(self._missing) > MISSING_MAX:
                self._missing.popitem(last=False)
        return data

    async def has(self, key: bytes) -> bool:
        """Whether `key` is there; OSError when that cannot be told now."""
        if (write := self._queue.pending(key)) is not None:
            return write.kind is Kind.PUT
        return not self._is_missing(key, self._now()) and await self._answer(self._remote.has(key))

    async def encoders(self) -> list[EncoderIdentity]:
        """The encoders of which it has features, as far as it tells, or told a moment ago. OSError."""
        async with self._asking_encoders:  # who asks meanwhile shares the answer
            if self._now() - self._encoders_at >= MISSING_S:
                self._encoders = await self._answer(self._remote.encoders())
                self._encoders_at = self._now()
            return self._encoders

    async def _answer(self, question: Coroutine[Any, Any, _T]) -> _T:
        """What the remote answers, if the breaker lets it be asked; it hears of how that went."""
        started = self._now()
        if not self.breaker.allows(started):
            question.close()
            raise ObjectStoreError("the cloud has failed too often of late")
        reading = asyncio.ensure_future(question)
        try:
            done, _ = await asyncio.wait({reading}, timeout=SLOW_S)
            if not done:
                self._failed(f"no answer within {SLOW_S:g} s")
            answer = await asyncio.wait_for(reading, READ_TIMEOUT_S - SLOW_S)
        except (OSError, TimeoutError) as error:
            self._worth.gave_up(self._now(), self._now() - started)
            if done:
                self._failed(str(error) or "no answer")
            raise ObjectStoreError(f"the cloud: {str(error) or 'no answer'}") from None
        except asyncio.CancelledError:
            reading.cancel()
            self._worth.gave_up(self._now(), self._now() - started)
            self.breaker.gave_up(self._now())
            raise
        now = self._now()
        if done:
            self._succeeded()
        self._worth.answered(now, now - started, is_hit=bool(answer))
        return answer

    def _failed(self, why: str) -> None:
        was_degraded = self.is_degraded
        self.breaker.failed(self._now())
        if self.is_degraded and not was_degraded:
            _log.warning("degraded: the cloud does not answer (%s): writes wait", why)

    def _succeeded(self) -> None:
        if self.is_degraded:
            _log.info("the cloud answers again")
        self.breaker.succeeded()

    def _is_missing(self, key: bytes, now: float) -> bool:
        since = self._missing.get(key)
        if since is not None and now - since > MISSING_S:
            del self._missing[key]
            return False
        return since is not None

    # -- writing ------------------------------------------------------------------------------------------------

    def put(self, key: bytes, data: memoryview) -> bool:
        """Write `data` under `key` when its turn comes; False when it is larger than all that may wait."""
        self._missing.pop(key, None)
        must_replace = self._must_replace(key, data)
        is_taken = not self._is_closed and self._queue.put(key, data, self._now(), must_replace=must_replace)
        self._woken()
        return is_taken

    def _must_replace(self, key: bytes, data: memoryview) -> bool:
        """Whether other features may have been given under this key: a user's may differ, an encoder's do not."""
        encoder = key[DIGEST_BYTES:]
        if encoder not in self._is_declared:
            if len(self._is_declared) >= _ENCODERS_MAX:
                self._is_declared.clear()
            identity = parse(data, key).key.encoder
            declared = EncoderIdentity.declared(identity.name, identity.version)
            self._is_declared[encoder] = identity == declared
        return self._is_declared[encoder]

    def remove(self, key: bytes) -> bool:
        """Remove `key`, some time; what it has until then is not given out here."""
        self._queue.remove(Kind.REMOVE, key)
        self._woken()
        return False

    def remove_image(self, digest: bytes) -> int:
        """The same for every key of an image."""
        self._queue.remove(Kind.REMOVE_IMAGE, digest)
        self._woken()
        return 0

    def remove_encoder(self, encoder: bytes) -> None:
        """The same for everything of one encoder."""
        self._queue.remove(Kind.REMOVE_ENCODER, encoder)
        self._woken()

    async def remove_now(self, names: Sequence[bytes], timeout_s: float) -> int:
        """Remove keys (64 bytes) and images (32 bytes), and wait for it so long; how many were found there by then.

        What takes longer goes on behind.
        """
        waiting: dict[Write, asyncio.Future[int]] = {}
        for name in names:
            kind = Kind.REMOVE if len(name) == PACKED_KEY_BYTES else Kind.REMOVE_IMAGE
            waiting[self._queue.remove(kind, name)] = asyncio.get_running_loop().create_future()
        self._removals |= waiting
        self._woken()
        try:
            if waiting and self.breaker.would_allow(self._now()):
                await asyncio.wait(waiting.values(), timeout=timeout_s)
        finally:
            for write in waiting:
                self._removals.pop(write, None)
        return sum(future.result() for future in waiting.values() if future.done())

    def withdraw(self, name: bytes) -> None:
        """Do not write what waits for `name`, a key or an image; somebody else removes what is there."""
        self._queue.withdraw(name)
        self._woken()

    async def flush(self) -> bool:
        """Wait until what waits is written; False if the cloud does not take it now."""
        while not self._is_idle.is_set():
            if self.is_degraded:
                return False
            try:
                async with asyncio.timeout(RETRY_S):
                    await self._is_idle.wait()
            except TimeoutError:
                continue
        return True

    async def close(self) -> None:
        """Write what waits as far as the cloud takes it in a few seconds, and end."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.flush()
        except TimeoutError:
            pass
        if len(self._queue):
            _log.warning("%d writes to the cloud were not done", len(self._queue))
        for writer in self._writers:
            writer.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)
        await self._remote.close()

    # -- the writers --------------------------------------------------------------------------------------------

    def _woken(self) -> None:
        if len(self._queue):
            self._is_idle.clear()
            self._wake_one()

    def _wake_one(self) -> None:
        """Have one of the writers look for something to write; all would find it taken by the first."""
        while self._waiting:
            if not (waiting := self._waiting.popleft()).done():
                waiting.set_result(None)
                return

    async def _write_on(self) -> None:
        """Write whatever is next, for as long as there is something and the cloud takes it."""
        while True:
            now = self._now()
            if len(self._queue) and not self.breaker.would_allow(now):
                await asyncio.sleep(max(RETRY_S * self._rng.uniform(0.5, 1.0), self.breaker.deadline() - now))
                continue
            writes = self._queue.take()
            if not writes:  # what there is, is under way or has to wait for that
                if not len(self._queue):
                    self._is_idle.set()
                waiting = asyncio.get_running_loop().create_future()
                self._waiting.append(waiting)
                await waiting
                continue
            self.breaker.allows(now)  # it would, as was asked above: if this is the trial, it is this writer's now
            if await self._write(writes):
                while self._waiting and len(self._queue):  # some of it may have had to wait for these
                    self._wake_one()
            else:
                await asyncio.sleep(RETRY_S * self._rng.uniform(0.5, 1.5))

    async def _write(self, writes: list[Write]) -> bool:
        """Do what was taken from the queue; whether that worked."""
        nbytes = sum(write.nbytes for write in writes)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S + nbytes / UPLINK_BYTES_PER_S):
                found = await self._do(writes)
        except asyncio.CancelledError:
            self.breaker.gave_up(self._now())
            self._queue.failed(writes)
            raise
        except CorruptPayload as error:  # of this node's own making: another attempt will not mend it
            _log.error("a payload was not written to the cloud: %s", error)
            self.breaker.gave_up(self._now())
            self._queue.done(writes)
            return True
        except (OSError, TimeoutError) as error:
            self._failed(str(error) or "no answer in time")
            self.write_failures += 1
            self._queue.failed(writes)
            return False
        self._succeeded()
        self._queue.done(writes)
        for write in writes:
            if (waiter := self._removals.pop(write, None)) is not None and not waiter.done():
                waiter.set_result(found)
                found = 0  # counted together, so told once
        return True

    async def _do(self, writes: list[Write]) -> int:
        first = writes[0]
        match first.kind:
            case Kind.PUT:
                assert first.data is not None
                age_s = self._now() - first.since
                if await self._remote.put(first.name, first.data, age_s, must_replace=first.must_replace):
                    self.uploads += 1
                else:
                    self.uploads_skipped += 1
                return 0
            case Kind.REMOVE:
                found = await self._remote.remove([write.name for write in writes])
            case Kind.REMOVE_IMAGE:
                found = await self._remote.remove_image(first.name)
            case Kind.REMOVE_ENCODER:
                found = await self._remote.remove_encoder(first.name)
        self.removals += found
        return found


def _writer_ended(writer: asyncio.Task[None]) -> None:
    if not writer.cancelled():
        _log.error("nothing more is written to the cloud", exc_info=writer.exception())
