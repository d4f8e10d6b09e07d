"""simulations/world.py, measure.py: a run of real nodes, what it counts, and what it would notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgecache.node.lookup import Lookup
from edgecache.node.store.tiers import Tiers
from edgecache.simulations import measure, world
from edgecache.simulations.links import LINKS
from edgecache.simulations.record import Answer, Meter, Record
from edgecache.simulations.scenario import SCENARIOS, Scenario, changed, scenario_named
from edgecache.simulations.world import InvariantBroken, World, simulate

SHORT: dict[str, Any] = {"devices": 3, "hours": 0.2}


def short(name: str, **changes: Any) -> Scenario:
    return scenario_named(name, {**SHORT, **changes})


@pytest.fixture(scope="module")
def kiosks() -> Record:
    return simulate(short("kiosks", disk="64MiB", memory="4MiB", per_hour=900.0))


def test_every_request_is_answered_and_counted_once(kiosks: Record) -> None:
    result = measure.summary(kiosks)
    assert result["requests"] == len(kiosks.requests) == sum(result["answers"].values())
    assert result["failed"] == result["not_asked"] == 0
    assert result["encodes"] == result["answers"]["encoder"] == sum(row["encodes"] for row in result["by_device"])
    assert result["encodes"] >= result["unique_images"]
    for tier in measure.TIERS:
        assert result["answers"][tier] == sum(row[tier] for row in result["by_device"])
        assert result["answers"][tier] == sum(row["answers"][tier] for row in result["by_hour"])
    for name in ("requests", "failed", "encodes", "encodes_saved"):
        assert result[name] == sum(row[name] for row in result["by_hour"])
    for name in ("bytes", "joules", "price_usd"):
        for part, value in result[name].items():
            assert value == pytest.approx(sum(row[name][part] for row in result["by_hour"]), rel=1e-4)
    assert result["hit_rate"] == pytest.approx(1 - result["answers"]["encoder"] / result["requests"], abs=1e-6)


def test_each_tier_answers_and_the_nearer_the_sooner(kiosks: Record) -> None:
    latency = measure.summary(kiosks)["latency_ms"]
    assert all(measure.counts(kiosks.answers)[tier] > 0 for tier in ("memory", "disk", "peer", "encoder"))
    assert latency["memory"]["p50"] < latency["disk"]["p50"] < latency["encoder"]["p50"]
    assert latency["memory"]["p50"] < latency["peer"]["p50"] < latency["encoder"]["p50"]


def test_without_a_cache_each_request_takes_an_encode_or_a_way_to_the_cloud(kiosks: Record) -> None:
    encode_s = 0.194
    encoding = measure.always_encode(kiosks)
    assert encoding.min() == pytest.approx(encode_s + 0.0006)
    mine = kiosks.requests.devices == 0
    finished = kiosks.requests.times[mine] + encoding[mine] - 0.0006
    assert (np.diff(finished) >= encode_s - 1e-9).all()  # never two at once
    assert measure.always_cloud(kiosks).min() > 120_000 / (38e6 / 8)


def test_devices_may_have_numbers_of_their_own() -> None:
    result = measure.summary(simulate(short("retail", device={"kind": "rpi4", "encode_ms": 50.0, "answer_ms": 2.0})))
    assert result["scenario"]["device_numbers"] == {"answer_ms": 2.0, "encode_ms": 50.0}
    assert result["without_cache"]["always_encode"]["latency_ms"]["p50"] == 52.0
    assert 52.0 <= result["latency_ms"]["encoder"]["p50"] < 65.0
    assert result["joules"]["encoding"] == pytest.approx(result["encodes"] * 0.05 * 3.7)


def test_images_go_to_the_cloud_with_the_bytes_that_a_log_gives_them(tmp_path: Path) -> None:
    digests = [f"{number:064x}" for number in range(3)]
    log = tmp_path / "log.csv"
    log.write_text(f"0,cam,{digests[0]},1000000\n10,cam,{digests[1]},\n20,cam,{digests[0]},\n3600,cam,{digests[2]},5\n")
    scenario = changed(Scenario(), {"workload": str(log), "devices": 1, "hours": 1.0, "image_bytes": 2000})
    requests = world.requests_of(scenario)
    none = np.zeros(1, np.int64)
    record = Record(scenario, requests, np.zeros(3, np.int8), np.zeros(3), none, none, none, [Meter()])
    assert measure.image_bytes(record).tolist() == [1_000_000, 2000, 1_000_000]  # the last is asked for after the hour
    assert measure.summary(record)["without_cache"]["cloud_only"]["bytes"]["uplink_up"] == 2_002_000
    first, second, third = measure.always_cloud(record)
    assert first == pytest.approx(third)
    assert first > 1_000_000 / LINKS[scenario.uplink].up_bytes_per_s > second


def test_the_seed_decides() -> None:
    one, same, other = (measure.summary(simulate(short("retail", seed=seed))) for seed in (3, 3, 4))
    assert one == same
    assert one != other


@pytest.mark.parametrize("name", [name for name in SCENARIOS if SCENARIOS[name].faults])
def test_what_happens_to_devices_breaks_no_invariant(name: str) -> None:
    record = simulate(short(name, hours=0.25))
    answers = measure.counts(record.answers)
    assert answers["encoder"] > 0
    assert answers["memory"] + answers["peer"] > 0
    assert (record.answers >= 0).all()
    if name == "churn":
        assert (record.answers == Answer.DOWN).any()


@pytest.mark.parametrize("name", [name for name in SCENARIOS if not SCENARIOS[name].faults])
def test_each_scenario_runs(name: str) -> None:
    smaller = {"warehouse": {"waypoints": 60}, "drones": {"length": 6}}  # the longer way round takes half an hour
    result = measure.summary(simulate(short(name, hours=0.15, **smaller.get(name, {}))))
    assert result["requests"] > 50
    assert result["failed"] == 0
    assert result["hit_rate"] > 0


def test_a_wrong_answer_is_noticed_and_the_seed_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Lookup.get
    first: list[Any] = []

    async def wrong(self: Lookup, *arguments: Any, **named: Any) -> Any:
        found = await right(self, *arguments, **named)
        first.append(found)
        return first[0]

    monkeypatch.setattr(Lookup, "get", wrong)
    with pytest.raises(InvariantBroken, match=r"answered .* for .* s after the start \(--seed 7\)"):
        simulate(short("kiosks", seed=7))


def test_an_error_of_a_node_is_noticed_and_the_seed_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Lookup, *arguments: Any, **named: Any) -> Any:
        raise KeyError("lost")

    monkeypatch.setattr(Lookup, "get", broken)
    with pytest.raises(InvariantBroken, match=r"device \d raised KeyError\('lost'\), .* \(--seed 7\)"):
        simulate(short("kiosks", seed=7))


def test_an_error_of_a_fault_is_noticed_and_the_seed_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: World, device: int) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(World, "crash", broken)
    with pytest.raises(InvariantBroken, match=r"churn raised KeyError\('lost'\), .* \(--seed 7\)"):
        simulate(short("churn", seed=7))


def test_who_keeps_what_is_outdated_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiers, "remove_outdated", lambda *arguments: 0)
    with pytest.raises(InvariantBroken, match=r"still holds .* \(--seed 1\)"):
        simulate(short("rolling-upgrade"))


@pytest.mark.parametrize("devices", [1, 2])
def test_everything_may_go_wrong_with_very_few_devices(devices: int) -> None:
    faults = ["churn", "churn", "partition", "slow-device", "cloud-outage", "rolling-upgrade"]
    record = simulate(changed(Scenario(), {"workload": "kiosks", "devices": devices, "hours": 0.5, "faults": faults}))
    assert (record.answers == Answer.MEMORY).any()


def test_the_faults_of_a_log_happen_while_it_lasts(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("".join(f"{number * 10},cam-{number % 3},{number % 20:064x}\n" for number in range(61)))
    scenario = changed(Scenario(), {"workload": str(log), "devices": 3, "faults": ["cloud-outage"], "cloud": True})
    assert world.World(scenario, world.requests_of(scenario)).minutes == 10.0


def test_a_hanging_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "DEADLINE_S", -100.0)
    with pytest.raises(InvariantBroken, match=r"device . waited 0\.\d+ s for an answer"):
        simulate(short("kiosks"))


def test_a_log_of_more_devices_than_there_are_is_asked_on_those_that_there_are(tmp_path: Any) -> None:
    log = tmp_path / "log.csv"
    log.write_text("".join(f"{number * 10},cam-{number % 7},{number % 20:064x}\n" for number in range(60)))
    record = simulate(changed(Scenario(), {"workload": str(log), "devices": 3, "hours": 1.0}))
    assert len(record.requests) == 60
    assert set(record.requests.devices.tolist()) == {0, 1, 2}
    assert measure.summary(record)["unique_images"] == 20


def test_a_device_that_goes_round_has_the_next_fetched_ahead(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rounds = [number % 20 for number in range(160)]  # its memory holds 14
    log.write_text("".join(f"{at},robot,{image:064x}\n" for at, image in enumerate(rounds)))
    record = simulate(changed(Scenario(), {"workload": str(log), "devices": 3, "hours": 1.0, "memory": "2MiB"}))
    ahead = measure.summary(record)["fetched_ahead"]
    assert ahead["all"] >= ahead["in_time"] > 20
    assert measure.summary(record)["answers"]["memory"] > 100
