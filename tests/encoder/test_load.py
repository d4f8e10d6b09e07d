"""What a SPEC loads, and what is said when it cannot be loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from edgecache.encoder.load import load
from edgecache.protocol.errors import InvalidValue


def test_a_users_own_factory_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = "class Mine:\n    identity, shape, encode_batch = 1, (1, 2), 2\n\ndef make(): return Mine()\n"
    (tmp_path / "some_users_encoder.py").write_text(mine)
    monkeypatch.syspath_prepend(tmp_path)
    assert load("module:some_users_encoder:make").shape == (1, 2)


@pytest.mark.parametrize("source", ["no.such.module:make", "json:no_such_factory"])
def test_what_is_not_there_is_named(source: str) -> None:
    with pytest.raises(InvalidValue, match="no"):
        load(f"module:{source}")


@pytest.mark.parametrize(
    ("source", "says"),
    [("os:sep", "is str, expected something to call"), ("os:getcwd", "str without identity, shape, encode_batch")],
)
def test_what_is_no_encoder_is_refused_for_good(source: str, says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        load(f"module:{source}")


@pytest.mark.parametrize(
    ("spec", "missing", "extra"),
    [
        ("edgecache/tiny", "torch", "encoder"),
        ("hf:some/model", "transformers", "hf"),
        ("onnx:some.onnx", "onnxruntime", "onnx"),
    ],
)
def test_without_its_extra_an_encoder_says_what_to_install(spec: str, missing: str, extra: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from edgecache.encoder.load import load; load({spec!r})"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"InvalidValue: {missing} is not installed: pip install 'edgecache[{extra}]'" in answer.stderr
