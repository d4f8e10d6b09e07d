"""`make demo ARGS=--exit`: what a newcomer sees first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.system.nodes import photo


def test_the_demonstration_finds_every_photograph_on_every_node(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"photo-{number}.jpg").write_bytes(photo(number))
    shown = subprocess.run(
        [sys.executable, "-m", "edgecache.node.demo", "--exit", "--photos", str(tmp_path)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout + shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines() if line.startswith("photo-")]
    assert [row[2] for row in rows] == ["demo-1", "demo-2", "demo-3"] * 2
    for number in range(2):  # one is encoded, and the others were given theirs or ask a peer
        encoded, *asked = (row[3] for row in rows if row[0] == f"photo-{number}.jpg")
        assert encoded == "encoder"
        assert set(asked) <= {"memory", "peer"}  # both from memory, where a copy was so slow that the next got one too
    assert "4 of 4 answers by hash are there, the same to the last bit" in shown.stdout


def test_photographs_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "edgecache.node.demo", "--exit", "--photos", str(tmp_path)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert shown.returncode == 2
    assert shown.stderr == f"no JPEG or PNG in {tmp_path}\n"
