"""What all tests share: properties are drawn the same way on every run, so that a failure can be looked into."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")
