"""`edgecache-encoder tune` on real images ends with a profile that a node's worker takes; `bench` with a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgecache.encoder import bench_command, candidates, cli, profile
from edgecache.encoder.options import Options
from edgecache.encoder.runtimes import Runtime
from edgecache.encoder.shortcuts import Shortcuts
from edgecache.encoder.vit import VitShape
from edgecache.encoder.worker import EncoderWorker

from .conftest import PHOTOS


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same story with fewer configurations."""
    monkeypatch.setattr(bench_command, "TIMED_IMAGES", 2)
    monkeypatch.setattr(candidates, "runtimes_alone", lambda _installed: [Options(), Options(Runtime.ONNX)])
    few = [Options(shortcuts=Shortcuts(merge=2)), Options(shortcuts=Shortcuts(depth=1, is_bridged=True))]
    monkeypatch.setattr(candidates, "shortcuts_alone", lambda _shape, _needed: few)
    monkeypatch.setattr(candidates, "combinations", lambda _shape: [])


async def test_tuning_ends_with_a_profile_that_a_node_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fast.toml"
    arguments = ["--images", str(PHOTOS), "--out", str(out), "--min-cosine", "0.98", "--runtime", "onnx"]
    assert cli.main(["tune", *arguments, "--json", str(tmp_path / "rows.json")]) == 0
    said = capsys.readouterr()
    assert f"edgecache-node --encoder {out}" in said.out
    found = profile.read(out)
    assert found.options.runtime is Runtime.ONNX
    assert found.measured["cosine_mean"] >= 0.98
    assert (tmp_path / "rows.json").exists()
    worker = EncoderWorker(str(out), threads=1)
    try:
        assert (await worker.encode((PHOTOS / "chelsea.png").read_bytes())).shape == (64, 192)
    finally:
        await worker.close()


def test_what_cannot_be_had_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "fast.toml")
    common = ["tune", "--images", str(PHOTOS), "--runtime", "onnx", "--out"]
    for more, says in (
        ([out, "--max-ms", "0.0001"], "ms, at most 0.0001"),
        ([out, "--min-cosine", "1.5"], "--min-cosine 1.5: expected above 0, at most 1"),
        ([str(tmp_path / "fast.json")], "name ends in .toml"),
    ):
        assert cli.main([*common, *more]) == 1
        assert says in capsys.readouterr().err.splitlines()[-1]
    assert not Path(out).exists()
    assert cli.main(["tune", "--out", out]) == 1
    assert "--images" in capsys.readouterr().err


def test_a_bench_says_all_of_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--images", str(PHOTOS)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + 4
    assert all(cell.strip() for line in table for cell in line.strip("|").split("|"))
    assert "not asked" not in table[2]


def test_the_bundled_model_has_candidates_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    made = candidates.shortcuts_alone(VitShape(), [0, 1, 2, 3])
    assert any(options.exits for options in made)
    assert any(options.small_side for options in made)
    assert {bool(o.shortcuts.merge) + 2 * bool(o.shortcuts.prune) + 4 * bool(o.shortcuts.skip) for o in made} >= {
        1,
        2,
        4,
    }
