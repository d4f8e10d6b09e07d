"""An event loop on virtual time: a wait takes no time, and the same program always runs the same way."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")


class NothingWillHappen(RuntimeError):
    """Every task waits, and no timer will ever wake one."""


class _NoSockets(selectors.SelectSelector):
    """Where a real loop would sleep until a socket is ready, the clock jumps to the next timer."""

    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingWillHappen("every task waits, and no timer will ever wake one")
        self.loop.advance(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves only when every task waits, to the next timer. No sockets, threads, processes."""

    def __init__(self) -> None:
        selector = _NoSockets()
        super().__init__(selector)
        selector.loop = self
        self._virtual_now = 0.0
        # Timers this close count as due: what is added to a large time may be lost to rounding.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._virtual_now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._virtual_now += max(0.0, seconds)


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
