"""simulations/plan.py and `edgecache-sim plan`: the smallest cluster that keeps a promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from edgecache.simulations import cli, plan
from edgecache.simulations.scenario import Scenario

MIB = 2**20


def enough_if(monkeypatch: pytest.MonkeyPatch, is_enough: Callable[[int, int, str], bool]) -> None:
    """Instead of runs: whether memory in MiB, copies and uplink are enough."""

    def tried(scenario: Scenario, memory: int, replicas: int, uplink: str, p95_ms: float) -> plan.Tried:
        return plan.Tried(memory, replicas, uplink, 0.9, 1.0, 2.0, is_enough(memory // MIB, replicas, uplink))

    monkeypatch.setattr(plan, "_try", tried)


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
    assert f"300 requests of 3 devices, the first 0.2 h of {log}, vit-b16 in 430 ms, wifi, seed 1" in shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--p95-ms", "0"], "--p95-ms 0: expected more than 0"),
        (["--p95-ms", "nan"], "--p95-ms nan: expected more than 0"),
        (["--p95-ms", "inf"], "--p95-ms inf: expected more than 0"),
        (["--p95-ms", "80", "--encode-ms", "-3"], "encode_ms = -3 of device rpi5: expected more than 0"),
        (["--p95-ms", "80", "--profile", "toaster"], "there is no device 'toaster'"),
        (["--p95-ms", "80", "--workload", "carnival"], "there is no workload 'carnival'"),
        (["--p95-ms", "80", "--workload", "nowhere.csv"], "nowhere.csv: No such file"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *arguments, "--quiet"]) == 2
    assert reason in capsys.readouterr().err
