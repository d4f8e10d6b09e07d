"""Your own log: which device needed which image, when."""

from __future__ import annotations

import csv
import importlib
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...protocol.errors import InvalidValue
from .requests import REQUESTS_MAX, Requests

COLUMNS = ("time", "device", "digest")
TIME_MAX_S = 1e15  # from there on floats have no room for tenths of a second
IMAGE_BYTES_MAX = 10**10 - 1  # 10 GB: what is longer is no image, and sums of 10^8 of them still fit 64 bits
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})", re.ASCII)
_WHOLE = re.compile(r"([0-9]+)(?:\.0*)?", re.ASCII)  # a column with gaps becomes 120000.0 in many a program


def read_log(path: Path) -> Requests:
    """The requests of a `.csv` or `.parquet` file with the columns time (seconds), device, digest and perhaps bytes.

    `bytes` is the size of the image's file, of which the first that is given for a digest counts.
    Devices are numbered by first use, and time begins with the first request. InvalidValue names the line that is
    wrong, among others one whose time is before that of the line above.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise InvalidValue(f"{path}: a log ends in .csv or .parquet")
    try:
        requests = _requests(path, _csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path))
    except OSError as error:
        raise InvalidValue(f"{path}: {error.strerror or error}") from error
    if not len(requests):
        raise InvalidValue(f"{path}: there is no request in it")
    return requests


def _requests(path: Path, rows: Iterable[tuple[int, list[str]]]) -> Requests:
    times: list[float] = []
    devices: dict[str, int] = {}
    images: dict[bytes, int] = {}
    sizes: list[int] = []
    of, what = [], []
    for line, row in rows:
        try:
            time, device, digest, size = _parsed(row)
            if times and time < times[-1]:
                raise ValueError(f"time {time:g} is before {times[-1]:g} in the line above")
        except ValueError as error:
            raise InvalidValue(f"{path}, line {line}: {error}") from None
        if len(times) == REQUESTS_MAX:
            raise InvalidValue(f"{path}, line {line}: more than {REQUESTS_MAX:,} requests")
        times.append(time)
        of.append(devices.setdefault(device, len(devices)))
        image = images.setdefault(digest, len(images))
        what.append(image)
        if image == len(sizes):
            sizes.append(size)
        elif not sizes[image]:
            sizes[image] = size
    at = np.array(times, np.float64)
    return Requests(
        at - at[0] if len(at) else at,
        np.array(of, np.int64),
        np.array(what, np.int64),
        list(images),
        np.array(sizes, np.int64) if any(sizes) else None,
    )


def _parsed(row: list[str]) -> tuple[float, str, bytes, int]:
    """Time, device, digest, and the image's bytes, 0 where they are not given; ValueError."""
    if len(row) not in (3, 4):
        raise ValueError(f"{','.join(row)[:80]!r} is not time,device,digest[,bytes]")
    try:
        time = float(row[0])
    except ValueError:
        time = math.nan
    if not abs(time) <= TIME_MAX_S:
        raise ValueError(f"time {row[0][:80]!r} is not a number of seconds, at most {TIME_MAX_S:g}")
    if not row[1].strip():
        raise ValueError("there is no device")
    digest = _DIGEST.fullmatch(row[2].strip())
    if digest is None:
        raise ValueError(f"digest {row[2][:80]!r} is not 64 hexadecimal digits")
    return time, row[1].strip(), bytes.fromhex(digest[1]), _size(row[3].strip()) if len(row) == 4 else 0


def _size(text: str) -> int:
    if not text:
        return 0
    whole = _WHOLE.fullmatch(text)
    if whole is None or len(whole[1]) > len(str(IMAGE_BYTES_MAX)) or not int(whole[1]):
        raise ValueError(f"bytes {text[:80]!r} is not a whole number from 1 to {IMAGE_BYTES_MAX}")
    return int(whole[1])


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    # Spreadsheets begin a file with a byte order mark. What is no UTF-8 is a wrong line like any other.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader(file)
        try:
            for row in reader:
                if reader.line_num == 1 and [cell.strip().lower() for cell in row[:3]] == list(COLUMNS):
                    continue
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise InvalidValue(f"{path}, line {reader.line_num}: {error}") from None


def _parquet_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows count as lines, from 1. A digest may be text or its 32 bytes."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InvalidValue(f"{path}: reading it needs pyarrow: pip install 'edgecache[simulations]'") from error
    try:
        file = parquet.ParquetFile(path)
    except ValueError as error:  # pyarrow's for what is no Parquet file
        raise InvalidValue(f"{path}: {error}") from None
    missing = [column for column in COLUMNS if column not in file.schema_arrow.names]
    if missing:
        raise InvalidValue(f"{path}: there is no column {missing[0]}, but {', '.join(file.schema_arrow.names)}")
    columns = [*COLUMNS, *(["bytes"] if "bytes" in file.schema_arrow.names else [])]
    line = 0
    for batch in _batches(path, file, columns):
        for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
            line += 1
            yield line, [_text(cell) for cell in row]


def _batches(path: Path, file: Any, columns: list[str]) -> Iterator[Any]:
    try:
        yield from file.iter_batches(columns=columns)
    except ValueError as error:  # pyarrow's for what is damaged
        raise InvalidValue(f"{path}: {error}") from None


def _text(cell: object) -> str:
    return "" if cell is None else cell.hex() if isinstance(cell, bytes) else str(cell)
