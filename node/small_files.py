"""Small private files in the data directory: replaced whole or not at all, never through a symlink.

Whoever can put a link into the data directory could otherwise have the node overwrite, or tell its peers, a file
elsewhere. Blocking calls, each with an fsync that takes 100 ms and more on an SD card: keep them off the event loop.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)


def read_small_file(path: Path, bytes_max: int) -> bytes | None:
    """The content of a regular file; None if there is none. OSError for a symlink, or if it is over `bytes_max`."""
    try:
        # Without O_NONBLOCK a fifo put here would hold the start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise OSError(f"{path}: more than {bytes_max} bytes")
    return content


def replace_small_file(path: Path, content: bytes) -> None:
    """Replace the file by one with `content`, readable by its owner only; after a power cut it is the old or the new.

    One writer at a time: the lock on the data directory sees to that between processes. OSError as the disk says it.
    """
    fresh = path.with_name(path.name + ".tmp")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # without it the rename itself can be lost
    finally:
        os.close(directory)


def set_aside(path: Path, why: object) -> None:
    """Rename a file that cannot be used to `NAME.corrupt`, for whoever wants to look at it, and say so in the log."""
    aside = path.with_name(path.name + ".corrupt")
    try:
        path.rename(aside)
    except OSError as error:
        _log.warning("%s cannot be used (%s), nor set aside (%s)", path, why, error)
    else:
        _log.warning("%s cannot be used (%s): set aside as %s", path, why, aside.name)
