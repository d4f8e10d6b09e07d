"""How a simulation's process keeps its memory: what hundreds of nodes take, and how quickly it is reached.

Nothing here changes what a run does; where the platform lacks it, a run is slower, or larger.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Iterator
from pathlib import Path

from ..protocol.frames import CHUNK_BYTES

_M_MMAP_THRESHOLD = -3  # malloc.h
_MADV_COLLAPSE = 25  # asm-generic/mman-common.h, Linux 6.1 and later
_HUGE_BYTES = 2 * 1024 * 1024
_GARBAGE_AFTER = 50_000  # objects; Python's own 700 are a few requests
# Looks at what is young for each look at all. Nodes that start make no garbage; later each connection that is closed
# leaves some, and by Python's own 10 what is garbage would fill memory before it is found.
_FULL_LOOK_EVERY_AT_START, _FULL_LOOK_EVERY = 1000, 2
_REGION = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ 00:00 0 +(?:\[heap\])?$")


def give_buffers_no_used_memory() -> None:
    """Have glibc map each connection's receive buffer anew, so that only what is received in it takes memory.

    By default they come from freed features after a while, whole pages of which a few received bytes keep.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, CHUNK_BYTES)


@contextlib.contextmanager
def garbage_looked_for_seldom() -> Iterator[None]:
    """Have Python look less often for garbage in cycles, of which nodes make little.

    With hundreds of idle nodes most of the time would go by in looking through all that they know.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(_GARBAGE_AFTER, thresholds[1], _FULL_LOOK_EVERY_AT_START)
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def settle() -> None:
    """What is in memory by now, stays: look for no garbage in it, and have Linux keep it in pages of 2 MB.

    Each second of virtual time goes through all that all nodes know, and much of the waiting is for the translation of
    addresses. What is left is in docs/simulations.md, with its command.
    """
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], _FULL_LOOK_EVERY)
    _use_huge_pages()


def _use_huge_pages() -> None:
    try:
        madvise = ctypes.CDLL(None).madvise
        regions = Path("/proc/self/smaps").read_text()
    except (OSError, AttributeError):  # not Linux
        return
    start = end = 0
    for line in regions.splitlines():
        if (region := _REGION.match(line)) is not None:
            start, end = (int(address, 16) for address in region.groups())
        elif line.startswith("Rss:"):
            # What is mostly untouched would only get larger.
            first, last = -(-start // _HUGE_BYTES), end // _HUGE_BYTES
            if int(line.split()[1]) * 1024 > (end - start) // 2:
                for page in range(first, last):
                    madvise(ctypes.c_void_p(page * _HUGE_BYTES), ctypes.c_size_t(_HUGE_BYTES), _MADV_COLLAPSE)
            start = end = 0
