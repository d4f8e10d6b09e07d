"""What is under way besides: tasks that somebody has to hold on to, and to end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Tasks(Generic[_T]):
    """Tasks until they are done, in the order in which they began.

    That order counts. A set of tasks is walked by their addresses in memory; what is cancelled first says its last word
    first, so no seed would reproduce a run in virtual time.
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[_T], None] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[_T]]:
        return iter(tuple(self._tasks))

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run `work`, and hold on to it until it is done."""
        task = asyncio.ensure_future(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[_T]) -> None:
        self._tasks.pop(task, None)

    def cancel(self) -> None:
        """Cancel all of them, the first first."""
        for task in self:
            task.cancel()

    async def close(self) -> None:
        """Cancel all of them, and wait until they have ended."""
        self.cancel()
        await asyncio.gather(*self, return_exceptions=True)
