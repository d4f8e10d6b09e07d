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

# Timers are sorted a 64th of a second at a time: what is later waits unsorted, by its 64th.
_SLOTS_PER_S = 64
_LATEST_S = 1e9  # all that is later has one slot
_CANCELLED_MIN = 1000  # timers; fewer are not worth looking for
_WHEN, _CALLBACK, _ARGS, _LOOP = 0, 2, 3, 5  # of a handle

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Ts = TypeVarTuple("_Ts")


class NothingWillHappen(RuntimeError):
    """Every task waits, and no timer will ever wake one."""


class _Handle(list[Any]):
    """A callback that waits: when, number, callback, arguments, context, and the loop if that keeps it as a timer.

    It is its own entry in the loop's heap, which compares it as a list: by time, and then by number.
    """

    __slots__ = ()

    def cancel(self) -> None:
        """It will not be called."""
        if self[_CALLBACK] is not None:
            self[_CALLBACK] = self[_ARGS] = None
            if (loop := self[_LOOP]) is not None:
                loop.cancelled += 1
                if loop.cancelled > loop.cancelled_max:
                    loop.drop_cancelled()

    def cancelled(self) -> bool:
        """Whether it will not be called; said of one that was called, too."""
        return self[_CALLBACK] is None

    def when(self) -> float:
        """Virtual time."""
        return float(self[_WHEN])


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """`time()` starts at 0 and moves only when every task waits, to the next timer. No sockets, threads, processes.

    Half of a simulation's time would go by in asyncio's own loop, which looks for sockets in every round, compares
    timers in Python, and gives each callback a context of its own. This one keeps its own timers, which also fire in
    the order of their making when they are due at one time; it overrides what `BaseEventLoop` leaves to its subclasses,
    its round, and what makes handles, tasks and futures. Callbacks for which no context is given run in the loop's;
    tasks have their own.

    One heap of all timers of hundreds of nodes does not fit into the processor's caches, and each step down in it waits
    for memory. So the heap has those of one 64th of a second, a few dozen, and the others wait by the 64th they are in.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._near: list[list[Any]] = []  # handles, a heap of all timers before `_near_until`
        self._near_until = 0.0
        self._later: dict[int, list[list[Any]]] = {}  # the others, by their slot
        self._slots: list[int] = []  # a heap of these slots
        self._soon: deque[_Handle] = deque()
        self._numbers = itertools.count()
        self.cancelled = 0
        """Timers that will not be needed, most of which wait still."""
        self.cancelled_max = _CANCELLED_MIN
        """With more than these it is time to `drop_cancelled`."""
        if not self.get_debug():
            self.get_debug = bool  # type: ignore[method-assign]  # False, as each new future asks

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
        timer = _Handle((when, next(self._numbers), callback, args, context, self))
        if when < self._near_until:
            heapq.heappush(self._near, timer)
        else:
            self._put_off(when, timer)
        return timer  # type: ignore[return-value]

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call `callback` after so many seconds."""
        when = self._now + delay  # not `call_at`: each call counts here
        timer = _Handle((when, next(self._numbers), callback, args, context, self))
        if when < self._near_until:
            heapq.heappush(self._near, timer)
        else:
            self._put_off(when, timer)
        return timer  # type: ignore[return-value]

    def post_at(self, when: float, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts) -> None:
        """As `call_at`, for what is never cancelled, as little that is on its way is: at a third of the cost."""
        timer = [when, next(self._numbers), callback, args, None, None]
        if when < self._near_until:
            heapq.heappush(self._near, timer)
        else:
            self._put_off(when, timer)

    def _put_off(self, when: float, timer: list[Any]) -> None:
        slot = int((when if when < _LATEST_S else _LATEST_S) * _SLOTS_PER_S)
        timers = self._later.get(slot)
        if timers is None:
            self._later[slot] = [timer]
            heapq.heappush(self._slots, slot)
        else:
            timers.append(timer)

    def _come_near(self) -> None:
        """The timers of the next slot are the near ones; there is one."""
        slot = heapq.heappop(self._slots)
        self._near += [timer for timer in self._later.pop(slot) if timer[_CALLBACK] is not None]
        heapq.heapify(self._near)
        self._near_until = (slot + 1) / _SLOTS_PER_S

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Call `callback` after all that is to be called already."""
        handle = _Handle((0.0, 0, callback, args, context, None))
        self._soon.append(handle)
        return handle  # type: ignore[return-value]

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """The same: there are no threads, but a signal's handler may say so."""
        return self.call_soon(callback, *args, context=context)

    def create_task(self, coro: Coroutine[Any, Any, _T], **how: Any) -> asyncio.Task[_T]:  # type: ignore[override]
        """A task that runs `coro`."""
        return asyncio.Task(coro, loop=self, **how)

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def drop_cancelled(self) -> None:
        """Look for the timers that will not be needed; there are many."""
        kept = 0
        for timers in (self._near, *self._later.values()):
            timers[:] = [timer for timer in timers if timer[_CALLBACK] is not None]
            kept += len(timers)
        heapq.heapify(self._near)
        self.cancelled, self.cancelled_max = 0, max(_CANCELLED_MIN, kept)

    def _run_once(self) -> None:
        """Until somebody stops the loop, which `run_forever` looks for only between such rounds."""
        near, soon, pop = self._near, self._soon, heapq.heappop
        while not self._stopping:  # type: ignore[attr-defined]
            if soon:
                _, _, callback, args, context, _ = soon.popleft()
            elif near:
                when, _, callback, args, context, _ = pop(near)
                if callback is not None and when > self._now:
                    self._now = when
            elif self._slots:
                self._come_near()
                continue
            else:
                raise NothingWillHappen("every task waits, and no timer will ever wake one")
            if callback is None:
                continue
            try:
                if context is None:
                    callback(*args)
                else:
                    context.run(callback, *args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": f"Exception in callback {callback!r}", "exception": error})

    def _process_events(self, event_list: object) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""


def running_loop() -> VirtualTimeLoop:
    """The one that runs; what is in memory lives on virtual time alone."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


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
