"""simulations/process_memory.py: what a run asks of the collector and of Linux, it takes back."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
from edgecache.simulations.process_memory import garbage_looked_for_seldom, settle


def test_a_run_leaves_the_collector_as_it_was() -> None:
    before = gc.get_threshold()
    with garbage_looked_for_seldom():
        settle()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > before[0]
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == before


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked of Linux")
def test_what_is_in_memory_stays_as_it_is_and_takes_no_more() -> None:
    kept = [bytes([number]) * 100_000 for number in range(200)]
    before = _resident_bytes()
    with garbage_looked_for_seldom():
        settle()
    assert all(part == bytes([number]) * 100_000 for number, part in enumerate(kept))
    # Where it is mostly in use, a region is rounded up to its last pages of 2 MB.
    assert _resident_bytes() < 1.5 * before


def _resident_bytes() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
