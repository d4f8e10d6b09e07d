"""The Python client without await: each call waits for its answer, over an event loop on a thread of its own.

A process that was forked has this object and not the thread: its first call begins anew there, with connections of its
own, so that the workers of a data loader may use the client of their parent.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Collection, Coroutine, Iterable
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .client import TIMEOUT_S, Client, Digest, Encode, _DigestT

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import ArrayLike

    from ..protocol.features import Features
    from .image_bytes import ImageLike

_T = TypeVar("_T")

_after_fork = threading.Lock()


class SyncClient:
    """`Client` for programs without an event loop: the same arguments, answers and errors. Threads may share one.

    Use it in `with`, or call `close` at the end.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        encode: Encode | None = None,
        encoder: str | None = None,
        version: str | None = None,
        timeout_s: float = TIMEOUT_S,
        cluster_key: str | Path | None = None,
        token: str | None = None,
        namespace: str | None = None,
    ) -> None:
        self._make = partial(
            Client,
            url,
            encode=encode,
            encoder=encoder,
            version=version,
            timeout_s=timeout_s,
            cluster_key=cluster_key,
            token=token,
            namespace=namespace,
        )
        self._is_closed = False
        # What a parent process had is kept and left alone: this process shares its sockets and what watches them.
        self._of_parents: list[object] = []
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()  # of `_is_closed`: no call begins after the last one
        self._client = self._make()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="edgecache client", daemon=True)
        self._thread.start()
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread; calls of other threads end with it. Harmless when repeated."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a SyncClient cannot be closed by its own encode= coroutine")
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed or self._pid != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for call in under_way:
            call.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.close()

    def encode(
        self,
        image: ImageLike,
        *,
        encode: Encode | None = None,
        encoder: str | None = None,
        version: str | None = None,
        min_fidelity: float | None = None,
    ) -> Features:
        """See `Client.encode`."""
        return self._wait(
            self._here().encode(image, encode=encode, encoder=encoder, version=version, min_fidelity=min_fidelity)
        )

    def get(
        self,
        digest: Digest,
        *,
        encoder: str | None = None,
        version: str | None = None,
        min_fidelity: float | None = None,
    ) -> Features | None:
        """See `Client.get`."""
        return self._wait(self._here().get(digest, encoder=encoder, version=version, min_fidelity=min_fidelity))

    def get_many(
        self, digests: Iterable[_DigestT], *, encoder: str | None = None, version: str | None = None
    ) -> dict[_DigestT, Features]:
        """See `Client.get_many`."""
        return self._wait(self._here().get_many(digests, encoder=encoder, version=version))

    def put(
        self,
        digest: Digest,
        array: ArrayLike,
        *,
        encoder: str | None = None,
        version: str | None = None,
        durable: bool = False,
    ) -> int:
        """See `Client.put`."""
        return self._wait(self._here().put(digest, array, encoder=encoder, version=version, durable=durable))

    def has(self, digest: Digest, *, encoder: str | None = None, version: str | None = None) -> bool:
        """See `Client.has`."""
        return self._wait(self._here().has(digest, encoder=encoder, version=version))

    def forget(self, digest: Digest, *, encoder: str | None = None, version: str | None = None) -> bool:
        """See `Client.forget`."""
        return self._wait(self._here().forget(digest, encoder=encoder, version=version))

    def invalidate(self, encoder: str, version: str | None = None) -> int:
        """See `Client.invalidate`."""
        return self._wait(self._here().invalidate(encoder, version))

    def cluster(self) -> dict[str, Any]:
        """See `Client.cluster`."""
        return self._wait(self._here().cluster())

    def stats(self) -> dict[str, Any]:
        """See `Client.stats`."""
        return self._wait(self._here().stats())

    def members(self) -> tuple[dict[str, Any], dict[str, str]]:
        """See `Client.members`."""
        return self._wait(self._here().members())

    def stats_of(self, urls: Collection[str]) -> dict[str, Any]:
        """See `Client.stats_of`."""
        return self._wait(self._here().stats_of(urls))

    def _here(self) -> Client:
        """The client of this process."""
        if self._pid != os.getpid():
            with _after_fork:
                if self._pid != os.getpid() and not self._is_closed:
                    self._of_parents.append((self._client, self._loop))
                    self._start()
        return self._client

    def _wait(self, call: Coroutine[Any, Any, _T]) -> _T:
        if threading.current_thread() is self._thread:
            call.close()
            raise RuntimeError("a SyncClient's own encode= coroutine cannot wait for it: make encode= a plain function")
        with self._lock:
            if self._is_closed:
                call.close()
                raise RuntimeError("this client is closed")
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except CancelledError:
            if self._is_closed:
                raise RuntimeError("this client was closed by another thread") from None
            raise
        except BaseException:
            future.cancel()  # an interrupt of this thread ends the call too
            raise
