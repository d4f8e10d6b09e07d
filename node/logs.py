"""The log on standard error: one line an event, text or JSON, and nothing in it that a terminal would obey."""

from __future__ import annotations

import json
import logging
import sys
import time

# What a node's name or a peer's message may bring: line ends, escape sequences, direction marks.
_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
for _codes in (range(0x200B, 0x2010), range(0x2028, 0x202F), range(0x2066, 0x206A)):
    _UNPRINTABLE |= {code: f"\\u{code:04x}" for code in _codes}


class _TextFormatter(logging.Formatter):
    """`12:34:56.789 WARNING links: closing the connection …`, tracebacks indented below."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{record.msecs:03.0f} {record.levelname} {_room(record)}: {escaped(record.getMessage())}"
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line = "\n    ".join([line, *map(escaped, trace)])
        return line


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "room": _room(record),
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event)


def escaped(text: str) -> str:
    """`text` with what does not print spelled out."""
    return text.translate(_UNPRINTABLE)


def formatter(log_format: str) -> logging.Formatter:
    """What makes a line of an event: `text` or `json`."""
    return _JsonFormatter() if log_format == "json" else _TextFormatter()


def set_up(log_format: str) -> None:
    """Send this process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)  # what matters of it, discovery.py says


def _room(record: logging.LogRecord) -> str:
    return record.name.rpartition(".")[2]
