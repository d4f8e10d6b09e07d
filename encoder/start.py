"""`edgecache-encoder`: where it begins, before what it needs is imported."""

from __future__ import annotations

import os
import signal


def main() -> int:
    """Run the command line; 130 if it is interrupted while it imports, too, when there is nothing to end."""
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not in a script's background
    if is_heard:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from .cli import main as run

    if is_heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()
