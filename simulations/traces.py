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
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
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
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        return _from_rows(name, _rows(path, file))


def _rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The key and the size of each line; a first line `time,key[,size]` is a heading."""
    reader = csv.reader(lines)
    columns = 0
    for row in reader:
        if not columns:
            columns = len(row)
            if [field.strip().lower() for field in row] in (["time", "key"], ["time", "key", "size"]):
                continue
        try:
            yield _parse(row, columns)
        except ValueError as error:
            raise InvalidValue(f"{path}, line {reader.line_num}: {error}") from error


def _parse(row: list[str], columns: int) -> tuple[str, int]:
    if len(row) != columns or columns not in (2, 3):
        raise ValueError(f"{','.join(row)[:80]!r} is not time,key{',size' if columns == 3 else '[,size]'}")
    time, key = row[0], row[1].strip()
    if not _is_number(time):
        raise ValueError(f"time {time[:80]!r} is not a number")
    if not key:
        raise ValueError("there is no key")
    if columns == 2:
        return key, 1
    size = row[2].strip()
    if not (size.isascii() and size.isdigit() and int(size) > 0):
        raise ValueError(f"size {size[:80]!r} is not a whole number above 0")
    return key, int(size)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


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
