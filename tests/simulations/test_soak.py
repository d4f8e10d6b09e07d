"""simulations/soak.py: random days on which everything goes wrong at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edgecache.node.lookup import Lookup
from edgecache.simulations import cli, soak
from edgecache.simulations.world import InvariantBroken


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    ours = logging.getLogger("edgecache")
    level = ours.level
    ours.setLevel(logging.CRITICAL)
    yield
    ours.setLevel(level)


@pytest.mark.parametrize("seed", range(24))
def test_a_random_day_breaks_no_promise(seed: int) -> None:
    happened = soak.soak(seed, minutes=0.6)
    assert happened["get"] > 100
    assert len(happened) > 7


def test_a_day_is_repeated_by_its_seed() -> None:
    assert soak.soak(3, 0.5) == soak.soak(3, 0.5)


def test_wrong_features_are_noticed_and_the_seed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Lookup.get
    first: list[Any] = []

    async def wrong(self: Lookup, *arguments: Any, **named: Any) -> Any:
        found = await right(self, *arguments, **named)
        first.append(found)
        return first[0] if found is not None else None

    monkeypatch.setattr(Lookup, "get", wrong)
    assert cli.main(["soak", "--seeds", "3", "--first", "11", "--minutes", "0.2", "--quiet"]) == 1
    assert "an invariant is broken: " in (shown := capsys.readouterr().err)
    assert "(seed 11)" in shown


def test_a_call_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "DEADLINE_S", 0.02)  # less than an encode takes
    with pytest.raises(InvariantBroken, match=r"did not end get within 0\.02 s"):
        soak.soak(1, 0.2)


def test_the_command_says_what_happened(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["soak", "--seeds", "1", "--minutes", "0.2", "--quiet"]) == 0
    assert "1 seeds of 0.2 virtual minutes, no invariant broken: " in capsys.readouterr().out
    assert cli.main(["soak", "--seeds", "0"]) == 2
