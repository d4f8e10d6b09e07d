"""An event loop on virtual time: a wait takes no time, and the same program always runs the same way."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, Unpack

_CANCELLED_MIN = 100  # timers; fewer are not worth looking for

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Ts = TypeVarTuple("_Ts")


class NothingWillHappen(RuntimeError):
    """Every task waits, and no timer will ever wake one."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """`time()` starts at 0 and moves only when every task waits, to the next timer. No sockets, threads, processes.

    Half of a simulation's time would go by in asyncio's own loop, which looks for sockets in every round and compares
    timers in Python. This one keeps timers as tuples, which also fire in the order of their making when they are due at
    one time; it overrides what `BaseEventLoop` leaves to its subclasses, and its round.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._cancelled = 0

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._now

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call `callback` when it is `when`; a time that has passed is now."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._cancelled += 1
        if self._cancelled > _CANCELLED_MIN and self._cancelled > len(self._timers) // 2:
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def _run_once(self) -> None:
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        if not ready:
            timers = self._timers
            while timers:
                when, _, timer = heapq.heappop(timers)
                if timer.cancelled():
                    self._cancelled -= 1
                    continue
                timer._scheduled = False  # type: ignore[attr-defined]
                if when > self._now:
                    self._now = when
                ready.append(timer)
                break
            else:
                raise NothingWillHappen("every task waits, and no timer will ever wake one")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _process_events(self, event_list: object) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """`asyncio.run` on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """A coroutine function made an ordinary one that runs on virtual time; for tests."""

    @functools.wraps(test)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> None:
        run(test(*args, **kwargs))

    return wrapper
