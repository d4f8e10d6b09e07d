"""`edgecache-encoder export` from the command line to a file that a node runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from edgecache.encoder import cli
from edgecache.encoder.load import load

PHOTOS = Path(__file__).parent.parent.parent / "docs" / "photos"


@pytest.mark.parametrize("precision", ["float32", "int8", "int8-static"])
def test_what_is_exported_is_an_encoder(precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tiny.onnx"
    rows = tmp_path / "rows.json"
    given = ["--precision", precision, "--images", str(PHOTOS), "--json", str(rows)]
    assert cli.main(["export", "--out", str(out), *given]) == 0
    said = capsys.readouterr().out
    version = "1" if precision == "float32" else f"1+{precision}"
    assert f"edgecache/tiny@{version}, differs by" in said
    encoder = load(f"onnx:{out}")
    assert (str(encoder.identity), encoder.shape) == (f"edgecache/tiny@{version}", (64, 192))
    plain, file = json.loads(rows.read_bytes())["results"]
    assert (plain["name"], plain["speedup"], plain["cosine_min"]) == ("torch float32", 1.0, 1.0)
    assert file["name"] == f"onnx {precision}"
    assert file["cosine_mean"] > 0.99
    assert file["megabytes"] == out.stat().st_size / 1e6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--encoder", "tensorrt:x"], "expected edgecache/tiny, hf:"),
        (["--encoder", "module:tests.encoder.test_library:FakeEncoder"], "whose model is at hand"),
        (["--precision", "int8-static"], "--images"),
        (["--images", "/no/such/place"], "neither a directory"),
        (["--json", "rows.json"], "measured on real images"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", "--out", str(tmp_path / "m.onnx"), *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("edgecache-encoder: ")
    assert says in line
    assert not (tmp_path / "m.onnx").exists()
