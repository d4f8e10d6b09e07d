"""Access traces from files: which keys were asked for, in order."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..protocol.errors import InvalidValue

SUFFIXES = (".u64.gz", ".csv.gz", ".csv")
SIZE_MAX = 10**15
"""Of an entry, in bytes or whatever the trace counts in: sums of them are still numbers that a float holds well."""


@dataclass(frozen=True)
class Trace:
    """Requests in order. Keys are numbered from 0; `sizes[key]` is the entry's size, 1 where the file names none."""

    name: str
    keys: list[int]
    sizes: list[int]


def read(path: Path) -> Trace:
    """The trace in `path`, by its suffix. InvalidValue says what is wrong, and in which line."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if suffix is None:
        raise InvalidValue(f"{path}: a trace ends in {', '.join(SUFFIXES)}")
    name = path.name.removesuffix(suffix)
    try:
        trace = _read_u64(name, path) if suffix == ".u64.gz" else _read_csv(name, path)
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise InvalidValue(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not trace.keys:
        raise InvalidValue(f"{path}: there is no request in it")
    return trace


def _read_u64(name: str, path: Path) -> Trace:
    data = gzip.decompress(path.read_bytes())
    if len(data) % 8:
        raise InvalidValue(f"{path}: {len(data)} bytes are no whole number of 64-bit keys")
    unique, keys = np.unique(np.frombuffer(data, "<u8"), return_inverse=True)
    return Trace(name, keys.tolist(), [1] * len(unique))


def _read_csv(name: str, path: Path) -> Trace:
    opened = gzip.open if path.suffix == ".gz" else open
    # Spreadsheets begin a file with a byte order mark. What is no UTF-8 is a key like any other.
    with opened(path, "rt", newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        return _from_rows(name, _rows(path, file))


def _rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The key and the size of each line; a first line `time,key[,size]` is a heading."""
    reader = csv.reader(lines)
    columns, before = 0, -math.inf
    for row in reader:
        if not columns:
            columns = len(row)
            if [field.strip().lower() for field in row] in (["time", "key"], ["time", "key", "size"]):
                continue
        try:
            time, key, size = _parse(row, columns)
            if time < before:
                raise ValueError(f"time {time:g} is before {before:g} in the line above")
        except ValueError as error:
            raise InvalidValue(f"{path}, line {reader.line_num}: {error}") from error
        before = time
        yield key, size


def _parse(row: list[str], columns: int) -> tuple[float, str, int]:
    """Time, key and size; ValueError."""
    if len(row) != columns or columns not in (2, 3):
        raise ValueError(f"{','.join(row)[:80]!r} is not time,key{',size' if columns == 3 else '[,size]'}")
    time, key = _time(row[0]), row[1].strip()
    if not key:
        raise ValueError("there is no key")
    if columns == 2:
        return time, key, 1
    size = row[2].strip()
    if not (size.isascii() and size.isdigit() and len(size) <= len(str(SIZE_MAX)) and 0 < int(size) <= SIZE_MAX):
        raise ValueError(f"size {size[:80]!r} is not a whole number from 1 to {SIZE_MAX}")
    return time, key, int(size)


def _time(text: str) -> float:
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not math.isfinite(time):
        raise ValueError(f"time {text[:80]!r} is not a number")
    return time


def _from_rows(name: str, rows: Iterable[tuple[str, int]]) -> Trace:
    """Keys numbered by first use; the size that a key comes with first is its size for good."""
    numbers: dict[str, int] = {}
    keys: list[int] = []
    sizes: list[int] = []
    for key, size in rows:
        number = numbers.setdefault(key, len(numbers))
        if number == len(sizes):
            sizes.append(size)
        keys.append(number)
    return Trace(name, keys, sizes)
