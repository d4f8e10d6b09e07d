"""simulations/plan.py and `edgecache-sim plan`: the smallest cluster that keeps a promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from edgecache.simulations import cli, plan
from edgecache.simulations.scenario import Scenario

MIB = 2**20


def tried(memory: int, replicas: int, uplink: str, *p95s_ms: float, limit_ms: float = 80.0) -> plan.Tried:
    runs = tuple(plan.Run(0.9, 1.0, p95_ms, p95_ms <= limit_ms) for p95_ms in p95s_ms)
    return plan.Tried(memory, replicas, uplink, runs)


def enough_if(monkeypatch: pytest.MonkeyPatch, is_enough: Callable[[int, int, str], bool]) -> None:
    """Instead of runs: whether memory in MiB, copies and uplink are enough."""

    def trying(scenario: Scenario, memory: int, replicas: int, uplink: str, p95_ms: float, seeds: int) -> plan.Tried:
        return tried(memory, replicas, uplink, 79.0 if is_enough(memory // MIB, replicas, uplink) else 81.0)

    monkeypatch.setattr(plan, "_try", trying)


@pytest.mark.parametrize("least", [4, 8, 64, 1024, 2048])
def test_the_smallest_memory_that_is_enough_is_found(monkeypatch: pytest.MonkeyPatch, least: int) -> None:
    enough_if(monkeypatch, lambda memory, replicas, uplink: memory >= least)
    found = plan.plan(Scenario(hours=0.1), 80.0)
    assert found.best is not None
    assert (found.best.memory_bytes, found.best.replicas, found.best.uplink) == (least * MIB, 1, "none")
    assert len(found.tried) <= 5 + 7  # halving, and one look at each other kind of cluster


def test_a_cloud_or_more_copies_are_recommended_where_they_save_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    least = {(1, "none"): 256, (2, "none"): 512, (1, "4g"): 256, (1, "5g"): 64, (2, "5g"): 64, (2, "wan"): 32}
    enough_if(monkeypatch, lambda memory, replicas, uplink: memory >= least.get((replicas, uplink), 10**6))
    found = plan.plan(Scenario(hours=0.1), 80.0)
    assert found.best is not None
    assert (found.best.memory_bytes, found.best.replicas, found.best.uplink) == (32 * MIB, 2, "wan")


def test_where_nothing_is_enough_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    enough_if(monkeypatch, lambda memory, replicas, uplink: False)
    scenario = Scenario(hours=0.1)
    found = plan.plan(scenario, 80.0)
    assert found.best is None
    assert len(found.tried) == len(plan.REPLICAS) * len(plan.UPLINKS)
    shown = plan.report(found, scenario, 80.0)
    assert "nothing up to 2048 MiB each keeps p95 below 80 ms" in shown
    assert "encoding one takes 430 ms: no memory helps" in shown


def test_every_seed_must_keep_the_promise_and_no_more_are_run_once_one_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeds' p95s scatter by 10 ms: a single one would have taken 16 MiB for enough."""
    scatter_ms = {5: 0.0, 6: 5.0, 7: -5.0}
    usual_ms = {4 * MIB: 95.0, 8 * MIB: 90.0, 16 * MIB: 78.0}
    asked = []

    def run(scenario: Scenario, p95_ms: float) -> plan.Run:
        asked.append((scenario.memory_bytes, scenario.seed))
        took_ms = usual_ms.get(scenario.memory_bytes, 60.0) + scatter_ms[scenario.seed]
        return plan.Run(0.9, 1.0, took_ms, took_ms <= p95_ms)

    monkeypatch.setattr(plan, "_run", run)
    scenario = Scenario(hours=0.1, seed=5)
    alone = plan.plan(scenario, 80.0, seeds=1)
    assert alone.best is not None
    assert alone.best.memory_bytes == 16 * MIB
    asked.clear()
    found = plan.plan(scenario, 80.0, seeds=3)
    assert found.best is not None
    assert found.best.memory_bytes == 32 * MIB
    assert {seed for memory, seed in asked if memory == 16 * MIB} == {5, 6}
    shown = plan.report(found, scenario, 80.0, seeds=3)
    assert "32 MiB for features on each of 8 × rpi5, --replicas 1, no cloud tier: p95 55.0-65.0 ms" in shown
    assert "seeds 5 to 7, of which the worst decides" in shown
    best = plan.as_json(found)["best"]
    assert (best["p95_ms"], best["p95_ms_by_seed"], best["is_enough"]) == (65.0, [60.0, 65.0, 55.0], True)


def test_of_a_seed_with_which_nobody_was_answered_there_is_no_p95() -> None:
    none = plan.Tried(4 * MIB, 1, "none", (plan.Run(0.9, 1.0, 50.0, True), plan.Run(0.0, None, None, False)))
    assert (none.is_enough, none.worst.p95_ms) == (False, None)
    shown = plan.report(plan.Plan(None, [none], 0.0, 10, 2), Scenario(), 80.0)
    assert shown.splitlines()[-1].split() == ["4", "1", "none", "0.0%", "2", "no"]


def test_a_log_gets_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = tmp_path / "log.csv", tmp_path / "plan.json"
    lines = [f"{number * 2},cam-{number % 3},{number % 12:064x}\n" for number in range(300)]
    log.write_text("time,device,digest\n" + "".join(lines))
    arguments = ["plan", "--devices", "3", "--profile", "rpi5", "--workload", str(log), "--p95-ms", "80", "--quiet"]
    assert cli.main([*arguments, "--hours", "0.2", "--json", str(out)]) == 0
    best = json.loads(out.read_text())["best"]
    assert (best["memory_bytes"], best["replicas"], best["uplink"]) == (4 * MIB, 1, "none")
    assert best["p95_ms"] <= 80
    shown = capsys.readouterr().out
    assert "4 MiB for features on each of 3 × rpi5, --replicas 1, no cloud tier" in shown
    assert f"300 requests of 3 devices, the first 0.2 h of {log}, vit-b16 in 430 ms, wifi, seeds 1 to 3" in shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--p95-ms", "0"], "--p95-ms 0: expected more than 0"),
        (["--p95-ms", "nan"], "--p95-ms nan: expected more than 0"),
        (["--p95-ms", "inf"], "--p95-ms inf: expected more than 0"),
        (["--p95-ms", "80", "--seeds", "0"], "--seeds 0: expected 1 to 100"),
        (["--p95-ms", "80", "--encode-ms", "-3"], "encode_ms = -3 of device rpi5: expected more than 0"),
        (["--p95-ms", "80", "--profile", "toaster"], "there is no device 'toaster'"),
        (["--p95-ms", "80", "--workload", "carnival"], "there is no workload 'carnival'"),
        (["--p95-ms", "80", "--workload", "nowhere.csv"], "nowhere.csv: No such file"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *arguments, "--quiet"]) == 2
    assert reason in capsys.readouterr().err
