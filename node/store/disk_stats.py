"""What the disk tier has counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class DiskStats:
    """Counters; they only grow."""

    corrupt: int = 0
    """Entries that did not match their checksum, or could not be read."""
    dropped: int = 0
    """Entries that were not taken: the queue was full, or the disk in trouble."""
    read_bytes: int = 0
    written_bytes: int = 0
    """Of entries, first writes and moves."""
    moved: int = 0
    """Entries that were moved so that another size of slot could have their segment."""
    syncs: int = 0
