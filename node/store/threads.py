"""Where the disk tier makes its blocking calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads(Protocol):
    """Threads of a real process, or the caller's own where there is no disk to wait for."""

    async def read(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """On one of a few threads."""

    async def write(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """On the one thread that writes."""

    def close(self) -> None:
        """No more calls come."""


class RealThreads:
    """`readers` threads to read on and one to write on, started when they are needed."""

    def __init__(self, readers: int) -> None:
        self._readers = ThreadPoolExecutor(readers, "disk-read")
        self._writer = ThreadPoolExecutor(1, "disk-write")

    async def read(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """On one of the readers."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, partial(work, *args, **kwargs))

    async def write(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """On the writer."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, partial(work, *args, **kwargs))

    def close(self) -> None:
        """Let the threads end when they have done their work."""
        self._readers.shutdown(wait=False)
        self._writer.shutdown(wait=False)


class NoThreads:
    """Every call at once: for directories in memory."""

    async def read(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Now."""
        await asyncio.sleep(0)
        return work(*args, **kwargs)

    async def write(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Now."""
        await asyncio.sleep(0)
        return work(*args, **kwargs)

    def close(self) -> None:
        """Nothing to end."""
