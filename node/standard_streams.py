"""Standard input, output and error as whoever started this process left them: closed, full, or with nobody to read.

A closed one is the worst: the next file or socket gets its number, and what anybody prints goes there.
"""

from __future__ import annotations

import io
import os
import sys


def prepare() -> None:
    """Open those that are closed, on nothing; standard output spells out letters that its encoding does not have."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or a pipe that takes ASCII only gets a name of other letters spelled out, and no traceback.
        sys.stdout.reconfigure(errors="backslashreplace")


def let_go_of_stdout() -> None:
    """After a write to it has failed: what is left of it goes nowhere, and does not fail again at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
