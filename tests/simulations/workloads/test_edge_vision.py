"""simulations/workloads/edge_vision.py: what its parameters promise is what happens."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from edgecache.protocol.errors import InvalidValue
from edgecache.simulations.workloads.edge_vision import HOUR_S, EdgeVision, Look

SMALL = EdgeVision(cameras=3, things_per_scene=200)


def looks(site: EdgeVision, seed: int = 1) -> list[Look]:
    return list(site.looks(seed))


def kind(look: Look) -> str:
    return look.key.split("/")[0]


def scene(look: Look) -> int:
    return int(look.key.split("/")[1])


def test_looks_come_in_the_order_of_time_and_each_thing_has_one_size() -> None:
    seen = looks(SMALL)
    assert all(one.time_s <= two.time_s for one, two in itertools.pairwise(seen))
    assert seen[-1].time_s < SMALL.days * 24 * HOUR_S
    assert len({(look.key, look.size) for look in seen}) == len({look.key for look in seen})
    assert {look.camera for look in seen} == {0, 1, 2}


def test_another_seed_is_another_site() -> None:
    assert looks(SMALL, 1) == looks(SMALL, 1)
    assert looks(SMALL, 1)[:100] != looks(SMALL, 2)[:100]


def test_looks_do_not_depend_on_the_hash_seed() -> None:
    program = (
        "import hashlib; from edgecache.simulations.workloads.edge_vision import EdgeVision;"
        "print(hashlib.sha256(repr([*EdgeVision(things_per_scene=50).looks(3)]).encode()).hexdigest())"
    )

    def digest(hash_seed: str) -> bytes:
        environment = {"PYTHONHASHSEED": hash_seed}
        return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout

    assert digest("1") == digest("2") != b""


def test_an_hour_shows_the_scene_that_it_showed_the_day_before() -> None:
    site = EdgeVision(cameras=1, away_per_day=0, tour_views=0, passers_by=0, again=0, late_share=1)
    by_hour = defaultdict(set)
    for look in looks(site):
        by_hour[int(look.time_s // HOUR_S)].add(scene(look))
    assert all(len(scenes) == 1 for scenes in by_hour.values())
    assert all(by_hour[hour] == by_hour[hour + 24] for hour in range(24))
    assert len(set().union(*by_hour.values())) > 2


def test_few_things_are_popular() -> None:
    count = Counter(look.key for look in looks(SMALL) if kind(look) == "thing")
    ranked = sorted(count.values(), reverse=True)
    assert sum(ranked[: len(ranked) // 10]) > 0.35 * sum(ranked)


def test_looks_come_in_bursts_and_who_passes_by_never_returns() -> None:
    seen = [look for look in looks(SMALL) if kind(look) == "passer-by"]
    count = Counter(look.key for look in seen)
    assert 1.55 < len(seen) / len(count) < 1.8  # 1 / (1 - .4)
    times = defaultdict(list)
    for look in seen:
        times[look.key].append(look.time_s)
    assert max(max(burst) - min(burst) for burst in times.values()) < 200
    encounters = looks(EdgeVision(cameras=1, again=0, tour_views=0))
    share = sum(kind(look) == "passer-by" for look in encounters) / len(encounters)
    assert 0.13 < share < 0.17


@pytest.mark.parametrize(("overlap", "low", "high"), [(0, 0, 0), (0.3, 0.2, 0.4), (1, 1, 1)])
def test_cameras_share_as_many_things_as_was_asked_for(overlap: float, low: float, high: float) -> None:
    site = EdgeVision(things_per_scene=300, overlap=overlap, zipf=0, passers_by=0, tour_views=0, restocked=0)
    seen = looks(site)
    by_site = sum(look.key.split("/")[2] == "site" for look in seen) / len(seen)
    assert low <= by_site <= high
    cameras = defaultdict(set)
    for look in seen:
        cameras[look.key].add(look.camera)
    assert (max(map(len, cameras.values())) > 1) == (overlap > 0)


def test_things_are_restocked_overnight_and_never_come_back() -> None:
    site = EdgeVision(cameras=1, scenes=1, zipf=0, passers_by=0, tour_views=0, restocked=0.5, things_per_scene=100)
    days = [set[str](), set[str]()]
    for look in looks(site):
        days[int(look.time_s // (24 * HOUR_S))].add(look.key)
    assert 0.35 < len(days[0] & days[1]) / 100 < 0.65


def test_a_tour_has_its_views_in_order_every_half_hour() -> None:
    site = EdgeVision(cameras=1, scenes=1, away_per_day=0, tour_views=10)
    views = [int(look.key.split("/")[3]) for look in looks(site) if kind(look) == "view"]
    assert len(views) == 10 * 48 * 2
    assert all(two == (one + 1) % 10 for one, two in itertools.pairwise(views))


def test_a_camera_is_turned_away_and_back() -> None:
    site = EdgeVision(cameras=1, tour_views=0, passers_by=0, again=0, late_share=1)
    by_hour = defaultdict(set)
    for look in looks(site):
        by_hour[int(look.time_s // HOUR_S)].add(scene(look))
    assert any(len(scenes) > 1 for scenes in by_hour.values())


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"cameras": 0}, "edge-vision: cameras is 0, but must be at least 1"),
        ({"overlap": 1.5}, "edge-vision: overlap is 1.5, but must be a share from 0 to 1"),
        ({"again": 1.0}, "edge-vision: again is 1, but must be from 0 to below 1"),
        ({"view_s": 0.0}, "edge-vision: view_s is 0, but must be above 0"),
        ({"tour_every_s": 60.0}, "edge-vision: tour_every_s is 60, but must be no shorter than the tour, 300 s"),
    ],
)
def test_what_cannot_be_is_refused(parameters: dict[str, float], reason: str) -> None:
    with pytest.raises(InvalidValue) as error:
        EdgeVision(**parameters)  # type: ignore[arg-type]
    assert str(error.value) == reason
