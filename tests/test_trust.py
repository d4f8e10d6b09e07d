"""docs/trust.md: every fault and hostile input has a test, and every test that is named there exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = "## What may go wrong, and the test that has it go wrong"
ROWS = [
    line.strip("| ").split(" | ")
    for line in (ROOT / "docs/trust.md").read_text().partition(SECTION)[2].splitlines()
    if line.startswith("| ") and "tests (below" not in line
]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`([\w/]+\.py::\w+)`", row[-1])})


def test_each_row_names_a_test_or_says_why_not() -> None:
    assert len(ROWS) > 30
    for fault, told in ROWS:
        assert "::" in told or len(told) > 20, fault


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_exists(name: str) -> None:
    file, _, function = name.partition("::")
    assert re.search(rf"^\s*(async )?def {function}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), name
