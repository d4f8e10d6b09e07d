"""What a run says: hits of each tier, latency beside having no cache, bytes, money and joules; by hour and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import costs
from .cloud import slow_start_s
from .costs import CLOUD, rounded
from .links import LINKS
from .record import Answer, Meter, Record
from .scenario import Scenario, entry_bytes
from .workloads.requests import HOUR_S

TIERS = ("memory", "disk", "peer", "cloud", "encoder")
PERCENTILES = (50, 95, 99)


def summary(record: Record) -> dict[str, Any]:
    """Everything, as JSON has it; the same record gives the same, byte for byte."""
    scenario = record.scenario
    asked = record.answers != Answer.DOWN
    answers, latencies, times = record.answers[asked], record.latencies[asked], record.requests.times[asked]
    devices = record.requests.devices[asked]
    answered = answers <= Answer.ENCODER
    warm = times >= 0.25 * times[-1] if len(times) else np.zeros(0, bool)
    encoding, in_cloud = always_encode(record), always_cloud(record)
    images_up, features_down = int(image_bytes(record)[asked].sum()), len(answers) * entry_bytes(scenario.model)
    return {
        "scenario": described(scenario),
        **_answers(record, asked, record.meters[-1]),
        "not_asked": int((~asked).sum()),
        "unique_images": len(np.unique(record.requests.images[asked])),
        "hit_rate_warm": _share(answers[warm] < Answer.ENCODER),
        "local_hit_rate_warm": _share(answers[warm] <= Answer.DISK),
        "latency_ms": {
            **_latencies(latencies[answered]),
            "warm": _latencies(latencies[answered & warm]),
            **{tier: _latencies(latencies[answers == number]) for number, tier in enumerate(TIERS)},
        },
        "without_cache": {
            "always_encode": {
                "latency_ms": _latencies(encoding[asked]),
                **costs.always_encoding(scenario, len(answers)),
            },
            "cloud_only": {
                "latency_ms": _latencies(in_cloud[asked]),
                **costs.in_the_cloud(scenario, len(answers), images_up, features_down),
            },
        },
        "evictions": record.evictions,
        "fetched_ahead": {"all": record.fetched_ahead, "in_time": record.fetched_in_time},
        "by_hour": _by_hour(record),
        "by_device": [
            {"device": f"n{device}", **counts(answers[devices == device]), "encodes": int(record.encodes[device]),
             "bytes_sent": int(record.bytes_sent[device]), "bytes_received": int(record.bytes_received[device])}
            for device in range(scenario.devices)
        ],
    }  # fmt: skip


def described(scenario: Scenario) -> dict[str, Any]:
    """What was run."""
    return {
        "name": scenario.name,
        "workload": scenario.workload,
        "parameters": dict(sorted(scenario.parameters.items())),
        "devices": scenario.devices,
        "hours": scenario.hours,
        "seed": scenario.seed,
        "device": scenario.device,
        "device_numbers": dict(sorted(scenario.device_numbers.items())),
        "model": scenario.model,
        "link": scenario.link,
        "uplink": scenario.uplink,
        "cloud": scenario.cloud,
        "memory_bytes": scenario.memory,
        "disk_bytes": scenario.disk_bytes,
        "image_bytes": scenario.image_bytes,
        "policy": scenario.policy,
        "replicas": scenario.replicas,
        "faults": list(scenario.faults),
    }


# -- without a cache ------------------------------------------------------------------------------------------------


def always_encode(record: Record) -> NDArray[np.float64]:
    """The latency of each request if its device encoded every image, one after the other."""
    device = record.scenario.profile
    encode_s = device.encode_s[record.scenario.model]
    latencies = np.zeros(len(record.requests))
    for number in range(record.scenario.devices):
        mine = record.requests.devices == number
        latencies[mine] = _in_a_queue(record.requests.times[mine], encode_s) + device.answer_s
    return latencies


def always_cloud(record: Record) -> NDArray[np.float64]:
    """The latency of each request if each image went up the site's link and its features came down again."""
    scenario, uplink = record.scenario, LINKS[record.scenario.uplink]
    images = image_bytes(record)
    size = entry_bytes(scenario.model)
    fixed_s = uplink.round_trip_s + CLOUD.encode_s + size / uplink.down_bytes_per_s + slow_start_s(size, uplink)
    slow_start = {image: slow_start_s(image, uplink) for image in np.unique(images).tolist()}
    starting_s = np.array([slow_start[image] for image in images.tolist()])
    waits: NDArray[np.float64] = _in_a_queue(record.requests.times, images / uplink.up_bytes_per_s) + starting_s
    return waits + fixed_s


def image_bytes(record: Record) -> NDArray[np.int64]:
    """Bytes of the image that each request is about: the log's, or the scenario's where it does not say."""
    requests, usual = record.requests, record.scenario.image_bytes
    if requests.sizes is None:
        return np.full(len(requests), usual, np.int64)
    sizes = requests.sizes[requests.images]
    return np.where(sizes > 0, sizes, usual)


def _in_a_queue(times: NDArray[np.float64], each_s: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """From arrival to end where one is served after the other: end i is `each_s` after arrival i or end i - 1."""
    if not len(times):
        return times
    ends = np.cumsum(np.broadcast_to(each_s, times.shape))
    places = ends - each_s
    ends = ends + np.maximum.accumulate(times - places)
    waits: NDArray[np.float64] = ends - times
    return waits


def _by_hour(record: Record) -> list[dict[str, Any]]:
    """Rows like the whole: who answered, how fast, what it cost. What came after the last hour is in its row."""
    hours = (record.requests.times // HOUR_S).astype(np.int64)
    last = int(hours[-1]) if record.scenario.is_log else max(0, int(np.ceil(record.scenario.hours)) - 1)
    before = Meter()
    rows = []
    without = {"always_encode": always_encode(record), "cloud_only": always_cloud(record)}
    for hour in range(last + 1):
        mine = (hours == hour) & (record.answers != Answer.DOWN)
        meter = record.meters[hour] if hour < min(last, len(record.meters)) else record.meters[-1]
        spent = meter.since(before)
        before = meter
        rows.append(
            {
                "hour": hour,
                **_answers(record, mine, spent),
                "without_cache": {name: {"latency_ms": _latencies(each[mine])} for name, each in without.items()},
            }
        )
    return rows


def _answers(record: Record, mine: NDArray[np.bool_], meter: Meter) -> dict[str, Any]:
    """Of these requests, in the time that the meter is of."""
    answers = record.answers[mine]
    answered = mine & (record.answers <= Answer.ENCODER)
    return {
        "requests": len(answers),
        "failed": int((answers == Answer.FAILED).sum()),
        "answers": counts(answers),
        "hit_rate": _share(answers < Answer.ENCODER),
        "latency_ms": _latencies(record.latencies[answered]),
        "encodes": meter.encodes,
        "encodes_saved": int(answered.sum()) - meter.encodes,
        "bytes": {"lan": meter.lan_sent, "uplink_up": meter.uplink_up, "uplink_down": meter.uplink_down},
        **costs.with_cache(record.scenario, meter),
    }


def counts(answers: NDArray[np.int8]) -> dict[str, int]:
    """How many each tier answered."""
    of = np.bincount(answers, minlength=len(TIERS))
    return {tier: int(of[number]) for number, tier in enumerate(TIERS)}


def _share(which: NDArray[np.bool_]) -> float | None:
    return round(float(which.mean()), 6) if len(which) else None


def _latencies(seconds: NDArray[np.float64]) -> dict[str, float | None]:
    names: Sequence[str] = [f"p{percentile}" for percentile in PERCENTILES]
    if not len(seconds):
        return {"mean": None, **dict.fromkeys(names)}
    found = np.percentile(seconds, PERCENTILES) * 1000
    return {
        "mean": rounded(float(seconds.mean()) * 1000),
        **{n: rounded(v) for n, v in zip(names, found, strict=True)},
    }
