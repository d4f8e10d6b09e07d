"""simulations/workloads: the same numbers give the same day, in order, and devices share what their parameter says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edgecache.protocol.errors import InvalidValue
from edgecache.simulations.workloads.catalogue import WORKLOADS, workload
from edgecache.simulations.workloads.requests import Requests, numbered

NAMES = sorted(WORKLOADS)


def made(name: str, devices: int = 6, hours: float = 3.0, seed: int = 1, **parameters: float) -> Requests:
    return workload(name, parameters).requests(devices, hours, np.random.default_rng(seed))


def seen_by_others(requests: Requests) -> float:
    """The share of requests for images that more than one device asks for."""
    pairs = np.unique(np.stack([requests.images, requests.devices]), axis=1)
    devices_of_image = np.bincount(pairs[0])
    return float((devices_of_image[requests.images] > 1).mean())


@pytest.mark.parametrize("name", NAMES)
def test_requests_come_in_order_within_the_hours_from_devices_that_there_are(name: str) -> None:
    requests = made(name)
    assert len(requests) > 1000
    assert (np.diff(requests.times) >= 0).all()
    assert 0 <= requests.times[0] <= requests.times[-1] < 3 * 3600 + 10
    assert set(requests.devices.tolist()) == set(range(6))
    first_uses = requests.images[np.sort(np.unique(requests.images, return_index=True)[1])]
    assert (first_uses == np.arange(len(first_uses))).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_random_numbers_give_the_same_requests_and_others_give_others(name: str) -> None:
    one, same, other = made(name), made(name), made(name, seed=2)
    assert (one.times == same.times).all()
    assert (one.images == same.images).all()
    assert len(one) != len(other) or (one.times != other.times).any()


@pytest.mark.parametrize("name", NAMES)
def test_more_overlap_is_more_shared(name: str) -> None:
    less, more = (seen_by_others(made(name, overlap=overlap)) for overlap in (0.1, 0.9))
    assert more > less + 0.2


@pytest.mark.parametrize("name", NAMES)
def test_one_device_for_some_minutes_is_a_workload_too(name: str) -> None:
    assert len(made(name, devices=1, hours=0.2)) > 0


def test_the_crowd_comes_in_the_middle_and_asks_for_few_images() -> None:
    requests = made("flash-crowd", hours=2.0, crowd_minutes=10.0)
    minutes = np.bincount((requests.times // 60).astype(int), minlength=120)
    assert minutes[60:70].min() > 5 * minutes[:60].mean()
    crowd = requests.images[(requests.times >= 3600) & (requests.times < 4200)]
    assert np.sort(np.bincount(crowd))[-5:].sum() > 0.8 * len(crowd)


@pytest.mark.parametrize("name", NAMES)
def test_too_little_time_for_a_request_is_an_empty_workload(name: str) -> None:
    assert len(made(name, devices=1, hours=1e-9)) == 0


MANY: dict[str, Any] = {"street": {"per_hour": 1e6}, "video": {"frames_per_s": 1e6}, "warehouse": {"step_s": 1e-5}}
MANY |= {"drones": {"tile_s": 1e-5}, "cameras": {"things_per_hour": 1e6}}


@pytest.mark.parametrize("name", NAMES)
def test_more_requests_than_a_run_can_have_are_refused_before_they_are_made(name: str) -> None:
    with pytest.raises(InvalidValue, match="requests, at most 20,000,000"):
        made(name, devices=1000, hours=100, **MANY.get(name, {"per_hour": 1e6}))


def test_no_two_things_get_one_number() -> None:
    most = 2**26 - 1
    assert len(set(numbered(1, np.array([0, most, 0, most]), np.array([0, 0, most, most])).tolist())) == 4
    with pytest.raises(InvalidValue, match="more than 67,108,864 things of one kind"):
        numbered(1, 0, np.array([most + 1]))


def test_digests_are_made_up_and_differ() -> None:
    requests = made("kiosks")
    assert len({requests.digest(image) for image in range(100)}) == 100


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("carnival", {}, "there is no workload 'carnival', but retail, warehouse, street"),
        ("retail", {"shelves": 3}, "workload retail has no parameter 'shelves', but per_hour, overlap"),
        ("retail", {"overlap": 1.5}, "overlap = 1.5 of workload retail: expected a share from 0 to 1"),
        ("retail", {"per_hour": 0}, "per_hour = 0 of workload retail: expected a number above 0"),
        (
            "retail",
            {"per_hour": float("nan")},
            "per_hour = nan of workload retail: expected a number above 0 to 1048576",
        ),
        (
            "retail",
            {"per_hour": float("inf")},
            "per_hour = inf of workload retail: expected a number above 0 to 1048576",
        ),
        ("retail", {"products": 2**21}, "products = 2097152 of workload retail: expected a number above 0 to 1048576"),
        ("retail", {"opens": 25}, "opens = 25 of workload retail: expected a number from 0 to 24"),
        ("retail", {"opens": 20, "closes": 6}, "opens = 20, closes = 6: expected it to close after it opens"),
        ("flash-crowd", {"crowd_factor": 0.5}, "crowd_factor = 0.5: expected 1 or more"),
        ("drones", {"pause_s": -1200}, "pause_s = -1200 of workload drones: expected a number from 0 to 1048576"),
        ("retail", {"products": "many"}, "products = 'many' of workload retail: expected a number such as 3000"),
        ("retail", {"products": 2.5}, "products = 2.5 of workload retail: expected a number such as 3000"),
    ],
)
def test_what_is_wrong_is_said(name: str, parameters: dict[str, float], reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason.replace(".", r"\.")):
        workload(name, parameters)
