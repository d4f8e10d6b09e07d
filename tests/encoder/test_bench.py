"""The benchmark prints a row for each image, whoever encodes it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from edgecache.encoder import bench

CONSTANT = """
import numpy as np
from edgecache.protocol.keys import EncoderIdentity

class Encoder:
    identity, shape = EncoderIdentity.declared("constant", "1"), (2, 3)

    def encode_batch(self, images):
        return [np.zeros(self.shape, np.float32) for image in images]
"""


def test_every_image_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "constant.py").write_text(CONSTANT)
    (tmp_path / "one.jpg").write_bytes(b"any bytes")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench", "--encoder", "module:constant:Encoder", str(tmp_path / "one.jpg")])
    bench.main()
    title, columns, row = capsys.readouterr().out.splitlines()
    assert title.startswith("module:constant:Encoder: 2 × 3, first answer after")
    assert columns.split()[0] == "image"
    assert row.split()[0] == "one.jpg"
    assert all(float(number) >= 0 for number in row.split()[1:])
