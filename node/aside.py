"""Work on many bytes, done where the event loop does not feel it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

# Hashing, quantising or decoding this many bytes takes about a millisecond, and a thread switch 0.1.
INLINE_BYTES_MAX = 1024 * 1024

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def aside(nbytes: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What `work` makes of `nbytes` bytes: at once when that is quick, else on a thread."""
    if nbytes <= INLINE_BYTES_MAX:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
