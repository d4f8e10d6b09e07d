"""Where results go: checked before a long run and not after it."""

from __future__ import annotations

from pathlib import Path

from ..protocol.errors import InvalidValue


def check_writable(path: Path) -> None:
    """InvalidValue when nothing can be written there; what is there stays as it is."""
    if not path.parent.is_dir():
        raise InvalidValue(f"{path}: there is no directory {path.parent}")
    was_there = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise InvalidValue(f"{path}: cannot be written: {error.strerror}") from None
    if not was_there:
        path.unlink()
