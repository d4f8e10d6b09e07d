"""What `import edgecache` offers: every name leads to what it says, and nothing heavy is imported for the others."""

from __future__ import annotations

import subprocess
import sys

import edgecache
import pytest


def test_every_name_is_there() -> None:
    assert all(getattr(edgecache, name).__name__ == name for name in edgecache.__all__)
    assert issubclass(edgecache.InvalidValue, edgecache.EdgeCacheError)


def test_another_name_is_none() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cache'"):
        _ = edgecache.Cache


def test_a_name_of_the_protocol_brings_no_client() -> None:
    # A command comes by here before it can say what Ctrl-C is to do.
    program = "import sys, edgecache; edgecache.InvalidValue; print('aiohttp' in sys.modules, 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "False"]
