"""An event loop on virtual time: a wait takes no time, and the same program always runs the same way."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


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
