"""simulations/workloads/log.py: recorded requests, and what may be wrong with them."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest
from edgecache.protocol.errors import InvalidValue
from edgecache.simulations.workloads import log
from edgecache.simulations.workloads.log import read_log

A, B = "a" * 64, "B" * 64


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(text)
    return path


def test_a_log_is_read_with_or_without_heading_and_sizes(tmp_path: Path) -> None:
    lines = f"100.5,cam-1,{A}\n101,cam-2,sha256:{B}\n101,cam-1,{A}\n"
    for text in (lines, "time,device,digest\n" + lines, "Time,Device,Digest,bytes\n" + lines.replace("\n", ",512\n")):
        requests = read_log(written(tmp_path, text))
        assert requests.times.tolist() == [0.0, 0.5, 0.5]
        assert requests.devices.tolist() == [0, 1, 0]
        assert [requests.digest(image) for image in requests.images] == [bytes.fromhex(d) for d in (A, B, A)]


def test_an_image_has_the_first_size_that_is_given_for_it(tmp_path: Path) -> None:
    text = f"1,cam,{A},\n2,cam,{B},7\n3,cam,{A},512\n4,cam,{A},600\n"
    sizes = read_log(written(tmp_path, text)).sizes
    assert sizes is not None
    assert sizes.tolist() == [512, 7]
    assert read_log(written(tmp_path, f"1,cam,{A}\n")).sizes is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"1,cam,{A}\n2,cam\n", r"line 2: '2,cam' is not time,device,digest\[,bytes\]"),
        (f"1,cam,{A}\nsoon,cam,{A}\n", "line 2: time 'soon' is not a number"),
        (f"1,cam,{A}\nnan,cam,{A}\n", "line 2: time 'nan' is not a number"),
        (f"time,device,digest\n2,cam,{A}\n1.5,cam,{A}\n", "line 3: time 1.5 is before 2 in the line above"),
        (f"1,cam,{A}\n2026-01-01,cam,{A}\n", "line 2: time '2026-01-01' is not a number of seconds, at most 1e"),
        (f"1e300,cam,{A}\n", "line 1: time '1e300' is not a number of seconds"),
        (f"1,,{A}\n", "line 1: there is no device"),
        (f"1,cam,{A}\n2,cam,{'x' * 200_000}\n", "line 2: field larger than field limit"),
        ("1,cam,cafe\n", "line 1: digest 'cafe' is not 64 hexadecimal digits"),
        (f"1,cam,{A},-3\n", "line 1: bytes '-3' is not a whole number from 1 to 9999999999"),
        (f"1,cam,{A},0\n", "line 1: bytes '0' is not a whole number from 1 to 9999999999"),
        (f"1,cam,{A},{10**10}\n", "line 1: bytes '10000000000' is not a whole number from 1 to 9999999999"),
        ("", "there is no request in it"),
        ("time,device,digest\n", "there is no request in it"),
    ],
)
def test_the_line_that_is_wrong_is_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        read_log(written(tmp_path, text))


def test_a_log_that_is_not_there_or_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="No such file"):
        read_log(tmp_path / "log.csv")
    with pytest.raises(InvalidValue, match=r"a log ends in \.csv or \.parquet"):
        read_log(tmp_path / "log.txt")


def test_a_log_is_read_as_spreadsheets_and_other_programs_write_it(tmp_path: Path) -> None:
    """With a byte order mark, lines that end in CR LF, and whole numbers as 512.0."""
    requests = read_log(written(tmp_path, f"\ufefftime,device,digest,bytes\r\n1,cam,{A},512.0\r\n2,cam,{B},\r\n"))
    assert requests.times.tolist() == [0.0, 1.0]
    assert requests.sizes is not None
    assert requests.sizes.tolist() == [512, 0]


def test_a_line_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(f"1,cam,{A}\n2,cam,".encode() + b"\xff" + A[1:].encode() + b"\n")
    with pytest.raises(InvalidValue, match=r"line 2: digest '.*' is not 64 hexadecimal digits"):
        read_log(path)


def test_a_log_has_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "REQUESTS_MAX", 2)
    with pytest.raises(InvalidValue, match="line 3: more than 2 requests"):
        read_log(written(tmp_path, f"1,cam,{A}\n" * 3))


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
def test_parquet_has_sizes_and_digests_as_text_or_as_bytes(tmp_path: Path) -> None:
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    path = tmp_path / "log.parquet"
    for digests in ([A, B], [bytes.fromhex(A), bytes.fromhex(B)]):
        for sizes in ([512, None], [512.0, None]):
            columns = {"time": [1, 2], "device": [7, 8], "digest": digests, "bytes": sizes}
            parquet.write_table(pyarrow.table(columns), path)
            requests = read_log(path)
            assert requests.sizes is not None
            assert requests.sizes.tolist() == [512, 0]
            assert [requests.digest(image) for image in (0, 1)] == [bytes.fromhex(A), bytes.fromhex(B)]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    path = tmp_path / "log.parquet"
    parquet.write_table(pyarrow.table({"digest": [A, B], "time": [1.0, 2.0], "device": ["x", "y"]}), path)
    assert read_log(path).times.tolist() == [0.0, 1.0]
    parquet.write_table(pyarrow.table({"digest": [A, B], "time": [2.0, 1.0], "device": ["x", "y"]}), path)
    with pytest.raises(InvalidValue, match="line 2: time 1 is before 2"):
        read_log(path)
    parquet.write_table(pyarrow.table({"time": [2.0]}), path)
    with pytest.raises(InvalidValue, match="there is no column device, but time"):
        read_log(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(InvalidValue, match=r"log\.parquet"):
        read_log(path)
