"""`edgecache-sim cluster`: from the command line to a table, JSON and a picture."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from edgecache.simulations import cli, outputs
from edgecache.simulations.scenario import SCENARIOS, scenario_named

SHORT = ["--devices", "3", "--hours", "0.1", "--quiet"]


def test_the_table_says_who_answered_how_fast_and_what_it_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run.json"
    assert cli.main(["cluster", "--scenario", "retail", *SHORT, "--seed", "5", "--json", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for word in (
        "memory",
        "encoder",
        "without: always encode",
        "without: in the cloud",
        "hit rate",
        "kJ above idle",
        "n2",
    ):
        assert word in shown.out
    result = json.loads(out.read_text())
    assert (result["scenario"]["name"], result["scenario"]["seed"], result["scenario"]["devices"]) == ("retail", 5, 3)
    assert len(result["by_hour"]) == 1
    assert "hour  requests" not in shown.out
    assert len(result["by_device"]) == 3


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    written = []
    for hash_seed in ("0", "12345"):
        out = tmp_path / f"{hash_seed}.json"
        program = "import sys; from edgecache.simulations.cli import main; sys.exit(main(sys.argv[1:]))"
        subprocess.run(
            [sys.executable, "-c", program, "cluster", "--scenario", "churn", "--devices", "3", "--hours", "0.15",
             "--quiet", "--json", str(out)],
            check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        written.append(out.read_bytes())
    assert written[0] == written[1]


def test_the_table_tells_each_hour_of_a_longer_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cluster", "--scenario", "retail", "--devices", "2", "--hours", "1.1", "--quiet"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-3].split()[:3] == ["hour", "requests", "memory"]
    assert [line.split()[0] for line in shown[-2:]] == ["0", "1"]


def test_what_breaks_on_purpose_is_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cluster", "--scenario", "cloud-outage", *SHORT]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_a_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "run.png"
    assert cli.main(["cluster", "--scenario", "kiosks", *SHORT, "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_file_is_a_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(
        'scenario = "kiosks"\ndevices = 2\nhours = 0.1\nmemory = "8MiB"\npolicy = "s3-fifo"\nlink = "lan"\n'
        '[workload]\nkind = "retail"\noverlap = 0.9\n'
    )
    assert cli.main(["cluster", "--scenario", str(path), "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("shop: 2 × x86-mini-pc, 8 MiB each, vit-b16, lan, 0.1 h, s3-fifo")


def test_a_parameter_may_stand_before_its_workload(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text('overlap = 0.9\n[workload]\nkind = "kiosks"\ncatalogue = 50\n')
    assert scenario_named(str(path), {}).parameters == {"overlap": 0.9, "catalogue": 50}


def test_looking_whether_a_file_can_be_written_leaves_it_as_it_is(tmp_path: Path) -> None:
    there, new = tmp_path / "there.json", tmp_path / "new.json"
    there.write_text("{}")
    outputs.check_writable(there)
    outputs.check_writable(new)
    assert there.read_text() == "{}"
    assert not new.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("devices = 0", "devices = 0: expected 1 to"),
        ("devices = 1025", "devices = 1025: expected 1 to 1024"),
        ("seed = -1", "seed = -1: expected 0 to 9007199254740991"),
        ('disk = "9000TiB"', "disk of 9895604649984000 bytes: at most 1125899906842624"),
        ('scenario = ["retail"]', "there is no scenario ['retail'], but retail"),
        ("devices = 2.5", "devices = 2.5: expected a whole number"),
        ("hours = 0", "hours = 0: expected more than 0"),
        ("hours = nan", "hours = nan: expected more than 0"),
        ("memory = 0", "memory = 0: a device without memory holds nothing"),
        ('memory = "1KiB"', "memory of 1024 bytes: the features of one image have"),
        ("memory = 1e9", "memory = 1000000000.0: expected a whole number"),
        ('memory = "lots"', "memory: 'lots': expected a size such as 512MiB or 4GiB"),
        ('policy = "magic"', "there is no policy 'magic', but fifo, lru"),
        ("[device]\nwheels = 4", "a device has no number 'wheels', but encode_ms, encode_watts, answer_ms, message_ms"),
        ("[device]\nencode_ms = 0", "encode_ms = 0 of device rpi5: expected more than 0, at most 1e+06"),
        ("[device]\nencode_ms = nan", "encode_ms = nan of device rpi5: expected more than 0"),
        ('[device]\nencode_ms = "fast"', "encode_ms = 'fast': expected a number"),
        ('device = "toaster"', "there is no device 'toaster', but rpi4, rpi5"),
        ('model = "eye"', "there is no model 'eye', but clip-b32"),
        ('link = "pigeon"', "there is no link 'pigeon', but lan, loopback"),
        ('faults = ["flood"]', "there is no fault 'flood', but churn, partition"),
        ('faults = "churn"', "faults = 'churn': expected a list of names"),
        ('workload = "carnival"', "there is no workload 'carnival', but retail"),
        ("overlap = 2", "overlap = 2 of workload retail: expected a share from 0 to 1"),
        ("colour = 3", "colour: no such setting; there are"),
        ('scenario = "moon"', "there is no scenario 'moon', but retail"),
        ("devices = ", "shop.toml: "),
    ],
)
def test_what_is_wrong_in_a_file_is_said(
    tmp_path: Path, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(text)
    assert cli.main(["cluster", "--scenario", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"edgecache-sim: {path}: ")
    assert reason in error


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--scenario", "moon"], f"there is no scenario 'moon', but {', '.join(SCENARIOS)}, or FILE.toml"),
        (["--scenario", "nowhere.toml"], "nowhere.toml: No such file"),
        (["--scenario", "retail", "--devices", "-1"], "devices = -1: expected 1 to"),
        (["--scenario", "retail", "--hours", "1e-9"], "retail asks for nothing within 1e-09 h"),
        (["--scenario", "retail", "--seed", "-1"], "seed = -1: expected 0 to"),
        (["--scenario", "retail", "--json", "nowhere/run.json"], "there is no directory nowhere"),
        (["--scenario", "retail", "--json", "/"], "/: cannot be written: Is a directory"),
        (["--scenario", "retail", "--plot", "run.xyz"], "run.xyz: a picture ends in .png, .pdf, .svg"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cluster", *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_an_empty_log_and_a_malformed_one_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, scenario = tmp_path / "log.csv", tmp_path / "mine.toml"
    scenario.write_text(f'workload = "{log}"\ndevices = 2')
    for text, reason in (
        ("", "there is no request in it"),
        (f"1,a,{'a' * 64}\n0,a,{'a' * 64}\n", "line 2: time 0 is before"),
    ):
        log.write_text(text)
        assert cli.main(["cluster", "--scenario", str(scenario), "--quiet"]) == 2
        assert reason in capsys.readouterr().err
