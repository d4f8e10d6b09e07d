"""simulations/sweep.py and `edgecache-sim sweep`: every combination once, wherever it stopped before."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from edgecache.simulations import cli, report, sweep, sweep_plots, world
from edgecache.simulations.scenario import Scenario, changed
from edgecache.simulations.world import InvariantBroken

GRID = """
scenario = "kiosks"
devices = 2
hours = 0.05
[grid]
memory = ["2MiB", "8MiB"]
policy = ["lru", "s3-fifo"]
overlap = [0.9]
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_combination_is_run_and_written_in_the_grids_order(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    assert cli.main(["sweep", str(grid), "--out", str(out), "--jobs", "1", "--quiet"]) == 0
    rows = rows_in(out)
    combinations = [(row["memory_bytes"], row["policy"]) for row in rows]
    small, large = str(2 * 2**20), str(8 * 2**20)
    assert combinations == [(small, "lru"), (small, "s3-fifo"), (large, "lru"), (large, "s3-fifo")]
    assert all(0 < float(row["hit_rate"]) < 1 and row["parameters"] == '{"overlap": 0.9}' for row in rows)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("4 runs; ")
    assert shown[1].split()[:4] == ["MiB", "each", "policy", "hit"]
    assert [line.split()[:2] for line in shown[2:]] == [["2", "lru"], ["2", "s3-fifo"], ["8", "lru"], ["8", "s3-fifo"]]


def test_what_is_known_is_not_run_again(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.csv"
    scenarios = sweep.scenarios_of(grid)
    done = dict(sweep.run(scenarios[:2], out, 1, None))
    ran: list[Scenario] = []
    really = sweep.row_of

    def counted(scenario: Scenario) -> dict[str, Any]:
        ran.append(scenario)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return really(scenario)

    monkeypatch.setattr(sweep, "row_of", counted)
    with pytest.raises(KeyboardInterrupt):
        dict(sweep.run(scenarios, out, 1, None))
    assert ran == scenarios[2:]
    ran[:] = [scenarios[0]] * 2  # no further interruption
    assert dict(sweep.run(scenarios, out, 1, None)).keys() == {0, 1, 2, 3}
    assert ran[2:] == [scenarios[3]]  # the third was kept beside, though the run was interrupted
    written = sweep._read(out)
    assert written[:2] == [done[0], done[1]]
    assert not out.with_name("out.csv.unfinished").exists()


def test_what_other_grids_left_in_the_file_is_kept(grid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    scenarios = sweep.scenarios_of(grid)
    former = dict(sweep.run(scenarios[:2], out, 1, None))
    now = dict(sweep.run(scenarios[1:3], out, 1, None))
    assert sweep._read(out) == [now[0], now[1], former[0]]
    assert now[0] == former[1]


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_a_sweep_and_its_processes_at_once(grid: Path, tmp_path: Path, jobs: int) -> None:
    grid.write_text(GRID.replace("0.05", "500"))
    program = "import sys; from edgecache.simulations.cli import main; print('begins', flush=True); sys.exit(main())"
    arguments = ["sweep", str(grid), "--out", str(tmp_path / "out.csv"), "--jobs", str(jobs), "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            process.stdout.readline()
            aside = tmp_path / "out.csv.unfinished"
            while not aside.exists():
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=30)  # its processes hold the pipe, too
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert errors == b""


def test_an_invariant_that_breaks_in_a_sweep_is_told_with_all_that_the_run_depends_on(
    grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "DEADLINE_S", -100.0)
    with pytest.raises(InvariantBroken, match=r'\(--seed 1\), in a run of {.*"memory_bytes": 2097152'):
        sweep.row_of(sweep.scenarios_of(grid)[0])


def test_processes_find_what_one_finds(grid: Path, tmp_path: Path) -> None:
    scenarios = sweep.scenarios_of(grid)
    one = dict(sweep.run(scenarios, tmp_path / "one.csv", 1, None))
    two = dict(sweep.run(scenarios, tmp_path / "two.csv", 2, None))
    assert one == two


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
def test_parquet_holds_the_same(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenarios = sweep.scenarios_of(grid)[:2]
    out = tmp_path / "out.parquet"
    rows = dict(sweep.run(scenarios, out, 1, None))
    assert sweep._read(out) == [rows[0], rows[1]]
    monkeypatch.delattr(sweep, "row_of")  # nothing is run again
    assert dict(sweep.run(scenarios, out, 1, None)) == rows


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs distributed")
def test_a_dask_cluster_finds_what_one_process_finds(grid: Path, tmp_path: Path) -> None:
    distributed = importlib.import_module("distributed")
    scenarios = sweep.scenarios_of(grid)[:2]
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        there = dict(sweep.run(scenarios, tmp_path / "dask.csv", 1, cluster.scheduler_address))
    assert there == dict(sweep.run(scenarios, tmp_path / "here.csv", 1, None))


def test_the_front_has_what_no_other_beats() -> None:
    def row(memory: int, hit_rate: float, uplink: int = 0) -> dict[str, Any]:
        return {"memory_bytes": memory, "devices": 1, "hit_rate_warm": hit_rate, "uplink_bytes": uplink, "requests": 10}

    small, large, worse, twin = row(1, 0.5), row(2, 0.7), row(2, 0.6), row(1, 0.5)
    cloudy, beaten = row(1, 0.6, 100), row(2, 0.7, 5)
    assert sweep.pareto([large, worse, small, twin, cloudy, beaten]) == [small, twin, cloudy, large]


def test_more_devices_may_move_more_over_the_uplink_for_more_requests() -> None:
    few = {"memory_bytes": 8, "devices": 2, "hit_rate_warm": 0.5, "uplink_bytes": 200, "requests": 100}
    many = {"memory_bytes": 4, "devices": 4, "hit_rate_warm": 0.5, "uplink_bytes": 300, "requests": 200}
    assert sweep.pareto([few, many]) == [many]


def test_runs_that_differ_in_their_seed_alone_become_their_mean(grid: Path, tmp_path: Path) -> None:
    scenarios = [changed(scenario, {"seed": seed}) for scenario in sweep.scenarios_of(grid)[:2] for seed in (1, 2)]
    rows = [row for _, row in sorted(sweep.run(scenarios, tmp_path / "out.csv", 1, None))]
    small, large = sweep.means(rows)
    assert small["runs"] == large["runs"] == 2
    assert small["policy"] != large["policy"]
    assert small["hit_rate_warm"] == (rows[0]["hit_rate_warm"] + rows[1]["hit_rate_warm"]) / 2
    table = report.sweep_table(rows)
    assert all(line.split("B")[1].split()[0] == "2" for line in table.splitlines()[2:])
    few = report.sweep_table(rows, most=1).splitlines()
    assert "settings that no other beats" in few[0]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_a_picture_of_the_front_is_drawn(grid: Path, tmp_path: Path) -> None:
    plot = tmp_path / "front.png"
    arguments = ["--out", str(tmp_path / "out.csv"), "--jobs", "1", "--quiet", "--plot", str(plot)]
    assert cli.main(["sweep", str(grid), *arguments]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("varied", "panels"),
    [
        (["memory_bytes", "devices", "uplink_bytes"], ["memory", "devices", "uplink"]),
        (["devices"], ["devices"]),
        (["policy"], ["p95"]),
    ],
)
def test_a_picture_has_a_panel_for_what_varies(varied: list[str], panels: list[str]) -> None:
    same = {"memory_bytes": 8, "devices": 2, "uplink_bytes": 0, "policy": 1}
    assert [panel.name for panel in sweep_plots._panels([same, same | dict.fromkeys(varied, 9)])] == panels


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("devices = 2", "there is no [grid] with lists of values"),
        ("[grid]\nmemory = '2MiB'", "grid.memory = '2MiB': expected a list of values"),
        ("[grid]\nmemory = []", "grid.memory = []: expected a list of values"),
        ("[grid]\nmemory = ['2MiB', 0]", "memory = 0: a device without memory holds nothing"),
        ("[grid]\npolicy = ['lru', 'luck']", "there is no policy 'luck'"),
        ("scenario = 'moon'\n[grid]\ndevices = [1]", "there is no scenario 'moon'"),
        (f"[grid]\nseed = {[*range(400)]}\nhours = {[*range(1, 300)]}", "119,600 combinations, at most 100,000"),
    ],
)
def test_a_wrong_grid_is_explained(tmp_path: Path, text: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    assert cli.main(["sweep", str(path), "--out", str(tmp_path / "out.csv")]) == 2
    assert reason in capsys.readouterr().err


def test_where_results_cannot_be_written_is_said_before_the_first_run(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "directory.csv").mkdir()
    (tmp_path / "accounts.csv").write_text("date,amount\n1,2\n")
    (tmp_path / "text.parquet").write_text("no parquet")
    for out, reason in (
        ("out.txt", "results end in .csv or .parquet"),
        ("nowhere/out.csv", "there is no directory"),
        ("directory.csv", "directory.csv: cannot be written: Is a directory"),
        ("accounts.csv", "not the results of this version's sweeps: there is no column 'name'"),
        ("text.parquet", "text.parquet: not the results of a sweep"),
    ):
        assert cli.main(["sweep", str(grid), "--out", str(tmp_path / out)]) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--jobs", "0"], "'0' is not a whole number from 1 to 1024"),
        (["--jobs", "-1"], "'-1' is not a whole number from 1 to 1024"),
        (["--plot", "front.xyz"], "front.xyz: a picture ends in .png, .pdf, .svg"),
    ],
)
def test_wrong_usage_is_explained(
    grid: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = cli.main(["sweep", str(grid), "--quiet", *arguments])
    except SystemExit as error:
        status = int(str(error.code))
    assert status == 2
    assert reason in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs distributed")
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("here", "--dask here: missing port number in address 'here'; expected tcp://HOST:PORT"),
        ("http://here:1", "--dask http://here:1: unknown address scheme 'http'"),
        ("tcp://127.0.0.1:1", "--dask tcp://127.0.0.1:1: no scheduler answers there within 0.2 s"),
    ],
)
def test_where_there_is_no_dask_cluster_is_said(
    grid: Path, tmp_path: Path, address: str, reason: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sweep, "DASK_WITHIN_S", 0.2)
    arguments = ["sweep", str(grid), "--out", str(tmp_path / "out.csv"), "--quiet", "--dask", address]
    assert cli.main(arguments) == 2
    assert reason in capsys.readouterr().err
