"""simulations/workloads: the same numbers give the same day, in order, and devices share what their parameter says."""

from __future__ import annotations

import numpy as np
import pytest
from edgecache.protocol.errors import InvalidValue
from edgecache.simulations.workloads.catalogue import WORKLOADS, workload
from edgecache.simulations.workloads.requests import Requests

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
        ("retail", {"products": "many"}, "products = 'many' of workload retail: expected a number such as 3000"),
        ("retail", {"products": 2.5}, "products = 2.5 of workload retail: expected a number such as 3000"),
    ],
)
def test_what_is_wrong_is_said(name: str, parameters: dict[str, float], reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason.replace(".", r"\.")):
        workload(name, parameters)
