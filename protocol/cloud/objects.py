"""An object store by its URL: S3, Google Cloud Storage, Azure, a directory, or this process's memory.

Credentials come from the environment and the machine, as the cloud's own tools take them, never from the URL: URLs end
up in process lists and logs. The library behind it (obstore) is imported where a URL is given, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import SplitResult, urlsplit

from ..errors import EdgeCacheError, InvalidValue

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az", "file", "memory")
URL_CHARS_MAX = 1024

# Beyond this an upload goes in parts, several at once, and a part that fails is sent again, not the whole.
PART_BYTES = 8 * 1024 * 1024
# A connection is made within this or not at all; what then moves is watched by `download` and by each caller.
CONNECT_TIMEOUT_S = 5
REQUEST_TIMEOUT_S = 300
# The library's own second tries, at most so long together. What fails after them is the callers' to try again.
RETRIES_MAX = 2
RETRY_TIMEOUT_S = 10
# Calls under way at a time. Each takes a thread or a few of the library's where the store is a directory, 10 to 40 KB
# each that stay; elsewhere a connection.
DIRECTORY_CALLS_MAX, CALLS_MAX = 4, 64
# What is handed on while a download is under way; less is lost where it breaks.
CHUNK_BYTES = 64 * 1024

Buffer = bytes | bytearray | memoryview
_T = TypeVar("_T")


class ObjectStoreError(EdgeCacheError, OSError):
    """The object store did not do what it was asked, for a reason that another try may mend."""


class ObjectChanged(ObjectStoreError):
    """The object is not the one any more that a download began with."""


@dataclass(frozen=True, slots=True)
class Part:
    """An object from some byte on: which state of it, how long it is as a whole, and its bytes as they come."""

    etag: str | None
    size: int
    chunks: AsyncIterator[Buffer]


class Objects(Protocol):
    """Objects by name. Every method may raise ObjectStoreError."""

    async def open(self, name: str, start: int = 0, end: int | None = None, etag: str | None = None) -> Part | None:
        """The object from `start` to `end`; None when there is none. ObjectChanged when it is not that of `etag`."""

    async def size(self, name: str) -> int | None:
        """How many bytes an object has; None when there is none."""

    async def put(self, name: str, data: Buffer) -> None:
        """Write an object, whole or not at all, instead of what was there."""

    async def delete(self, names: Sequence[str]) -> None:
        """Delete objects; one that is not there is deleted already."""

    def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        """Name and size of every object whose name begins with `prefix`, which ends with a slash."""


def open_objects(url: str) -> Objects:
    """The object store at `url`. InvalidValue for what is no such URL, and where a package or account is missing."""
    split = checked_url(url)
    try:
        from obstore import exceptions
        from obstore.store import from_url
    except ModuleNotFoundError:
        raise InvalidValue("obstore is not installed: pip install 'edgecache[cloud]'") from None
    try:
        if split.scheme == "memory":
            store = from_url("memory:///")
        elif split.scheme == "file":
            store = from_url(url, mkdir=True)
        else:
            store = from_url(
                url,
                client_options={
                    "timeout": f"{REQUEST_TIMEOUT_S}s",
                    "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
                    # Where the user names an http:// endpoint, as of a MinIO in the house; the clouds' own are https.
                    "allow_http": True,
                },
                retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S)},
            )
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise InvalidValue(f"{url}: {_first_line(error)}") from None
    return _Obstore(store, DIRECTORY_CALLS_MAX if split.scheme == "file" else CALLS_MAX)


def checked_url(url: str) -> SplitResult:
    """`url` in its parts; InvalidValue when it is not one of an object store."""
    if len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable():
        raise InvalidValue(f"{url[:80]!a}: expected a URL of at most {URL_CHARS_MAX} ASCII characters")
    split = urlsplit(url)
    if split.scheme not in SCHEMES:
        raise InvalidValue(f"{url[:80]!a}: expected {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    if "@" in split.netloc or split.query or split.fragment:
        # Not shown: it may hold a secret.
        raise InvalidValue(
            f"{split.scheme}:// URL with a user, query or fragment: credentials come from the environment"
        )
    if split.scheme == "file" and (split.netloc or not split.path.strip("/")):
        raise InvalidValue(f"{url[:80]!a}: expected file:/// and an absolute path to a directory")
    if split.scheme not in ("file", "memory") and not split.netloc:
        raise InvalidValue(f"{url[:80]!a}: expected a bucket or container after {split.scheme}://")
    return split


class _Obstore:
    """`Objects` by the library."""

    def __init__(self, store: ObjectStore, calls_max: int) -> None:
        self._store = store
        self._places = asyncio.Semaphore(calls_max)

    async def open(self, name: str, start: int = 0, end: int | None = None, etag: str | None = None) -> Part | None:
        import obstore

        options: obstore.GetOptions = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        if etag is not None:
            options["if_match"] = etag
        try:
            got = await self._asked(lambda: obstore.get_async(self._store, name, options=options))
        except FileNotFoundError:
            return None
        return Part(got.meta["e_tag"], got.meta["size"], self._chunks(got))

    async def size(self, name: str) -> int | None:
        import obstore

        try:
            return (await self._asked(lambda: obstore.head_async(self._store, name)))["size"]
        except FileNotFoundError:
            return None

    async def put(self, name: str, data: Buffer) -> None:
        import obstore

        is_large = len(data) > PART_BYTES
        await self._asked(
            lambda: obstore.put_async(self._store, name, data, use_multipart=is_large, chunk_size=PART_BYTES)
        )

    async def delete(self, names: Sequence[str]) -> None:
        import obstore

        try:
            await self._asked(lambda: obstore.delete_async(self._store, list(names)))
        except FileNotFoundError:  # of a directory: the first that is missing ends it
            for name in names if len(names) > 1 else ():
                await self.delete([name])

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        import obstore

        batches = obstore.list(self._store, prefix.rstrip("/"))
        while True:
            batch = await self._asked(lambda: anext(batches, None))
            if batch is None:
                return
            for meta in batch:
                yield meta["path"], meta["size"]

    async def _chunks(self, got: GetResult) -> AsyncIterator[Buffer]:
        chunks = aiter(got.stream(min_chunk_size=CHUNK_BYTES))
        while True:
            chunk = await self._asked(lambda: anext(chunks, None))
            if chunk is None:
                return
            yield chunk

    async def _asked(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """What the library answers; what it raises as one of our errors, on one line. FileNotFoundError stays."""
        from obstore import exceptions

        try:
            async with self._places:
                return await ask()
        except FileNotFoundError:
            raise
        except exceptions.PreconditionError as error:
            raise ObjectChanged(_first_line(error)) from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise ObjectStoreError(_first_line(error)) from None


def _first_line(error: BaseException) -> str:
    """The library adds its own inner workings after the first line."""
    return str(error).partition("\n")[0] or type(error).__name__
