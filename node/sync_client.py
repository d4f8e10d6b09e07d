"""The Python client without await: each call waits for its answer, over an event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine, Iterable
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
        self._client = Client(
            url,
            encode=encode,
            encoder=encoder,
            version=version,
            timeout_s=timeout_s,
            cluster_key=cluster_key,
            token=token,
            namespace=namespace,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="edgecache client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread. Harmless when repeated."""
        if self._loop.is_closed():
            return
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

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
            self._client.encode(image, encode=encode, encoder=encoder, version=version, min_fidelity=min_fidelity)
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
        return self._wait(self._client.get(digest, encoder=encoder, version=version, min_fidelity=min_fidelity))

    def get_many(
        self, digests: Iterable[_DigestT], *, encoder: str | None = None, version: str | None = None
    ) -> dict[_DigestT, Features]:
        """See `Client.get_many`."""
        return self._wait(self._client.get_many(digests, encoder=encoder, version=version))

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
        return self._wait(self._client.put(digest, array, encoder=encoder, version=version, durable=durable))

    def has(self, digest: Digest, *, encoder: str | None = None, version: str | None = None) -> bool:
        """See `Client.has`."""
        return self._wait(self._client.has(digest, encoder=encoder, version=version))

    def forget(self, digest: Digest, *, encoder: str | None = None, version: str | None = None) -> bool:
        """See `Client.forget`."""
        return self._wait(self._client.forget(digest, encoder=encoder, version=version))

    def invalidate(self, encoder: str, version: str | None = None) -> int:
        """See `Client.invalidate`."""
        return self._wait(self._client.invalidate(encoder, version))

    def cluster(self) -> dict[str, Any]:
        """See `Client.cluster`."""
        return self._wait(self._client.cluster())

    def stats(self) -> dict[str, Any]:
        """See `Client.stats`."""
        return self._wait(self._client.stats())

    def members(self) -> tuple[dict[str, Any], dict[str, str]]:
        """See `Client.members`."""
        return self._wait(self._client.members())

    def stats_of(self, urls: Collection[str]) -> dict[str, Any]:
        """See `Client.stats_of`."""
        return self._wait(self._client.stats_of(urls))

    def _wait(self, call: Coroutine[Any, Any, _T]) -> _T:
        if self._loop.is_closed():
            call.close()
            raise RuntimeError("this client is closed")
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupt of this thread ends the call too
            raise
