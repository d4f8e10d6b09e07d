"""How far a long run is: a bar on standard error, or in a file a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_EVERY_S = 0.5
_EVERY_S_IN_A_FILE = 30.0
_BAR = 24


class Progress:
    """`with Progress("retail") as progress: progress.show(0.5, "12.0 h")`."""

    def __init__(self, name: str, *, is_shown: bool = True) -> None:
        self._name = name
        self._is_shown = is_shown
        self._is_terminal = sys.stderr.isatty()
        self._every_s = _EVERY_S if self._is_terminal else _EVERY_S_IN_A_FILE
        self._began_at = self._shown_at = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown and self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def show(self, share: float, what: str) -> None:
        """`share` of the work is done."""
        now = time.monotonic()
        if not self._is_shown or now - self._shown_at < self._every_s:
            return
        self._shown_at = now
        left_s = (now - self._began_at) * (1 - share) / share if share > 0.01 else None
        left = f", {left_s:.0f} s left" if left_s is not None else ""
        bar = "#" * round(share * _BAR)
        line = f"{self._name} [{bar:.<{_BAR}}] {share:4.0%}  {what}{left}"
        print(f"\r{line}\x1b[K" if self._is_terminal else line, end="" if self._is_terminal else "\n", file=sys.stderr)
        sys.stderr.flush()
