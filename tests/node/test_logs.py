"""node/logs.py: a log that nobody can forge lines of."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from edgecache.node.logs import escaped, formatter


def record(message: str, *, failed: bool = False) -> logging.LogRecord:
    info = None
    if failed:
        try:
            raise ValueError("bad\nvalue")
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("edgecache.node.links", logging.WARNING, "", 0, message, None, info)


@pytest.mark.parametrize("forged", ["a\r\n12:00:00 INFO links: all is well", "\x1b[2J", "\u2028", "\u202e", "\x9b31m"])
def test_what_a_terminal_would_obey_is_spelled_out(forged: str) -> None:
    line = formatter("text").format(record(f"node {forged} joined"))
    assert line.isprintable()
    assert "WARNING links: node " in line
    assert escaped(forged) in line


def test_a_traceback_is_indented_below_its_line() -> None:
    first, *rest = formatter("text").format(record("it failed", failed=True)).split("\n")
    assert first.endswith("it failed")
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_a_json_event_is_one_line() -> None:
    line = formatter("json").format(record("two\nlines", failed=True))
    assert "\n" not in line
    event = json.loads(line)
    assert (event["level"], event["room"], event["message"]) == ("warning", "links", "two\nlines")
    assert "ValueError" in event["traceback"]
