"""What all tests share: one thread for what computes, and properties that are drawn the same way on every run."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Several tests run at once: threads that wait for a core which another test has take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell has what it runs in the background ignore Ctrl-C, and so would the commands that are interrupted in tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")
