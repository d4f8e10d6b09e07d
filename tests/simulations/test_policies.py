"""simulations/policies.py and `edgecache-sim policies`: hit ratios on traces."""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
from pathlib import Path

import pytest
from edgecache.simulations import cli, policies, traces
from edgecache.simulations.traces import Trace

NAMES = ["fifo", "lru", "lfu", "lru-2", "2q", "arc", "lirs", "sieve", "s3-fifo", "w-tinylfu", "belady"]


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """2000 requests, few of the keys popular."""
    rng = random.Random(1)
    keys = [min(int(rng.paretovariate(0.5)), 300) for _ in range(2000)]
    path = tmp_path / "street.u64.gz"
    path.write_bytes(gzip.compress(b"".join(key.to_bytes(8, "little") for key in keys)))
    return path


def trace(keys: str, **sizes: int) -> Trace:
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return Trace("letters", [numbers[key] for key in keys], [sizes.get(key, 1) for key in numbers])


def test_every_miss_admits() -> None:
    assert policies.replay(trace("abcabc"), "lru", 3)[0] == 3
    assert policies.replay(trace("abcabc"), "lru", 2)[0] == 0
    assert policies.replay(trace("abcabc"), "belady", 2)[0] == 2


def test_a_large_entry_takes_the_room_of_several() -> None:
    assert policies.replay(trace("abcabL" + "abc", L=3), "lru", 3)[0] == 2


@pytest.mark.parametrize("policy", policies.MAKERS)
def test_what_is_larger_than_the_store_disturbs_nobody(policy: str) -> None:
    assert policies.replay(trace("aLaLLaL", L=3), policy, 2)[0] == 2


def test_results_are_as_the_interface_has_them(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    assert cli.main(["policies", "--trace", str(street), "--size", "1%,10%", "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert [result["policy"] for result in results] == [*policies.MAKERS] * 2
    assert set(NAMES) <= {*policies.MAKERS}
    first = results[0]
    assert first["trace"] == "street"
    assert (first["size_fraction"], first["size"]) == (0.01, round(0.01 * first["unique"]))
    assert first["requests"] == 2000
    assert 0 < first["hit_ratio"] < 1
    assert first["ns_per_request"] > 0
    belady = {result["size"]: result["hit_ratio"] for result in results if result["policy"] == "belady"}
    assert all(result["hit_ratio"] <= belady[result["size"]] for result in results)
    shown = capsys.readouterr()
    assert f"[{len(results)}/{len(results)}] street at 10.000%, belady" in shown.err
    assert shown.out.splitlines()[1].startswith("street 1 %")
    assert "mean of Belady's" in shown.out


def test_quiet_says_nothing_but_the_table(street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policies", "--trace", str(street), "--policy", "lru", "fifo", "--size", "5%", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.split()[:2] == ["lru", "fifo"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--policy", "clairvoyance"], "there is no policy 'clairvoyance', but fifo, lru, lfu, lru-2"),
        (["--size", "5"], "'5' is not a share above 0 % and up to 100 %, such as 5%"),
        (["--size", "0%"], "'0%' is not a share"),
        (["--size", "1%,nan%"], "'nan%' is not a share"),
        (["--size", "101%"], "'101%' is not a share"),
        (["--json", "nowhere/results.json"], "nowhere/results.json: there is no directory nowhere"),
    ],
)
def test_wrong_usage_is_explained(
    street: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = cli.main(["policies", "--trace", str(street), *arguments])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    assert reason in capsys.readouterr().err


def test_a_malformed_trace_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "street.csv"
    path.write_text("0,a\nb\n")
    assert cli.main(["policies", "--trace", str(path)]) == 2
    assert capsys.readouterr().err == f"edgecache-sim: {path}, line 2: 'b' is not time,key[,size]\n"


def test_a_plot_is_drawn_or_what_is_missing_is_named(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "street.png"
    status = cli.main(["policies", "--trace", str(street), "--policy", "lru", "belady", "--plot", str(plot)])
    if importlib.util.find_spec("matplotlib") is None:
        assert status == 2
        assert "--plot needs matplotlib: pip install 'edgecache[simulations]'" in capsys.readouterr().err
    else:
        assert status == 0
        assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_size_where_lru_has_a_hit_ratio_is_the_smallest_of_them(street: Path) -> None:
    read = traces.read(street)
    size = policies.lru_size(read, 0.5)
    assert size is not None
    assert policies.replay(read, "lru", size)[0] >= 1000 > policies.replay(read, "lru", size - 1)[0]
    assert policies.lru_size(read, 0.99) is None
    assert policies.lru_size(trace("ab", a=5, b=7), 0.0) == 1


def test_policies_are_compared_where_lru_has_so_much(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    command = ["policies", "--trace", str(street), "--policy", "lru", "belady", "--lru-at", "50%", "--json", str(out)]
    assert cli.main(command) == 0
    lru, belady = json.loads(out.read_text())["results"]
    assert 0.5 <= lru["hit_ratio"] < 0.51 < belady["hit_ratio"]
    assert lru["size"] == belady["size"] == policies.lru_size(traces.read(street), 0.5)
    assert "left out" not in capsys.readouterr().err
    assert cli.main(["policies", "--trace", str(street), "--lru-at", "99%"]) == 2
    told = capsys.readouterr().err
    assert "street left out" in told
    assert "--lru-at 99" in told
