"""simulations/traces.py: requests from files, and what is wrong with a file."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from edgecache.protocol.errors import InvalidValue
from edgecache.simulations import traces
from edgecache.simulations.traces import Trace


def compressed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the same name for the test each time


def written(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_64_bit_keys_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "street.u64.gz"
    path.write_bytes(compressed(b"".join(key.to_bytes(8, "little") for key in [7, 2**64 - 1, 7, 0])))
    assert traces.read(path) == Trace("street", [1, 2, 1, 0], [1, 1, 1])


@pytest.mark.parametrize("name", ["street.csv", "street.csv.gz"])
@pytest.mark.parametrize("heading", ["", "time,key,size\n"])
def test_lines_have_a_key_and_a_size(tmp_path: Path, name: str, heading: str) -> None:
    path = written(tmp_path / name, f"{heading}0,a,100\n0.5,b,7\n1,a,100\n")
    assert traces.read(path) == Trace("street", [0, 1, 0], [100, 7])


def test_a_byte_order_mark_is_no_part_of_the_heading(tmp_path: Path) -> None:
    assert traces.read(written(tmp_path / "street.csv", "\ufefftime,key\n0,a\n")).keys == [0]


def test_entries_without_a_size_count_as_one(tmp_path: Path) -> None:
    assert traces.read(written(tmp_path / "street.csv", "0,a\n1,b\n")).sizes == [1, 1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2,c", "'2,c' is not time,key,size"),
        ("2,c,3,4", "'2,c,3,4' is not time,key,size"),
        ("", "'' is not time,key,size"),
        ("noon,c,3", "time 'noon' is not a number"),
        ("nan,c,3", "time 'nan' is not a number"),
        ("2,,3", "there is no key"),
        ("0.5,c,3", "time 0.5 is before 1 in the line above"),
        ("2,c,0", "size '0' is not a whole number from 1 to 1000000000000000"),
        ("2,c,-1", "size '-1' is not a whole number from 1 to 1000000000000000"),
        ("2,c,1000000000000001", "size '1000000000000001' is not a whole number from 1 to 1000000000000000"),
        ("2,c,many", "size 'many' is not a whole number from 1 to 1000000000000000"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = written(tmp_path / "street.csv", f"0,a,1\n1,b,1\n{line}\n3,d,1\n")
    with pytest.raises(InvalidValue) as error:
        traces.read(path)
    assert str(error.value) == f"{path}, line 3: {reason}"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("street.txt", b"", "a trace ends in .u64.gz, .csv.gz, .csv"),
        ("street.u64.gz", compressed(b"123456789"), "9 bytes are no whole number of 64-bit keys"),
        ("street.u64.gz", compressed(b""), "there is no request in it"),
        ("street.u64.gz", b"12345678", "Not a gzipped file (b'12')"),
        ("street.u64.gz", compressed(b"12345678")[:-9], "Compressed file ended before"),
        ("street.csv", b"time,key\n", "there is no request in it"),
        ("street.csv", b"1,a\n\xff\xfe,b\n", r"line 2: time '\udcff\udcfe' is not a number"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidValue) as error:
        traces.read(path)
    assert str(error.value).startswith(str(path))
    assert reason in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"street\.csv: No such file"):
        traces.read(tmp_path / "street.csv")
