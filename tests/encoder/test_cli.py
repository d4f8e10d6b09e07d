"""`edgecache-encoder`: wrong usage is said in one line before anything runs, with exit status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgecache.encoder import cli
from edgecache.encoder.cli import WRONG_USAGE


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench", "--threads", "0"], "--threads: '0': expected a whole number, at least 1"),
        (["bench", "--batch", "many"], "--batch: 'many': expected a whole number, at least 1"),
        (["tune", "--count", "2"], "--count: '2': expected a whole number, at least 3"),
        (["tune", "--max-ms", "-1"], "--max-ms: '-1': expected a number above 0"),
        (["train", "--teacher", "edgecache/tiny", "--images", ".", "--minutes", "nan"], "--minutes: 'nan': expected"),
        (["train", "--teacher", "edgecache/tiny", "--images", ".", "--depth", "-1"], "'-1': expected a whole number"),
        (["library", "build", ".", "--to", "memory://", "--processes", "0"], "--processes: '0': expected a whole"),
        (["train", "--images", "."], "--teacher/--encoder"),
        (["fly"], "invalid choice: 'fly'"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == WRONG_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.mark.parametrize("option", ["--out", "--json", "--plot"])
@pytest.mark.parametrize("command", ["export", "tune", "train"])
def test_what_cannot_be_written_is_said_before_anything_is_measured(
    command: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = str(tmp_path / "nowhere" / "file")
    given = ["--encoder", "edgecache/tiny", "--images", str(tmp_path), option, there]
    if option != "--out":
        given += ["--out", str(tmp_path / "out")]
    assert cli.main([command, *given]) == cli.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"edgecache-encoder: {there}: there is no directory {tmp_path / 'nowhere'}"
    assert not list(tmp_path.iterdir())


def test_an_interrupt_is_an_exit_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_bench", interrupted)
    assert cli.main(["bench"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "edgecache-encoder: interrupted\n"
