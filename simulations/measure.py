"""What a run says: hits of each tier, latency beside having no cache, bytes, money and joules; by hour and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cloud import CloudService, slow_start_s
from .devices import DEVICES, Device
from .links import LINKS, Link
from .scenario import Scenario, entry_bytes
from .workloads.requests import HOUR_S
from .world import Answer, Record

TIERS = ("memory", "disk", "peer", "cloud", "encoder")
PERCENTILES = (50, 95, 99)
_CLOUD = CloudService()


def summary(record: Record) -> dict[str, Any]:
    """Everything, as JSON has it; the same record gives the same, byte for byte."""
    scenario = record.scenario
    asked = record.answers != Answer.DOWN
    answers, latencies, times = record.answers[asked], record.latencies[asked], record.requests.times[asked]
    devices = record.requests.devices[asked]
    answered = answers <= Answer.ENCODER
    warm = times >= 0.25 * times[-1] if len(times) else np.zeros(0, bool)
    encoding, in_cloud = always_encode(record), always_cloud(record)
    return {
        "scenario": described(scenario),
        "requests": len(answers),
        "not_asked": int((~asked).sum()),
        "failed": int((answers == Answer.FAILED).sum()),
        "unique_images": len(np.unique(record.requests.images[asked])),
        "answers": counts(answers),
        "hit_rate": _share(answers < Answer.ENCODER),
        "hit_rate_warm": _share(answers[warm] < Answer.ENCODER),
        "local_hit_rate_warm": _share(answers[warm] <= Answer.DISK),
        "latency_ms": {
            **_latencies(latencies[answered]),
            "warm": _latencies(latencies[answered & warm]),
            **{tier: _latencies(latencies[answers == number]) for number, tier in enumerate(TIERS)},
        },
        "without_cache": {
            "always_encode": {"latency_ms": _latencies(encoding[asked]), **_encoding_costs(scenario, len(answers))},
            "cloud_only": {"latency_ms": _latencies(in_cloud[asked]), **_cloud_costs(record, asked)},
        },
        "encodes": int(record.encodes.sum()),
        "encodes_saved": len(answers) - int((answers == Answer.FAILED).sum()) - int(record.encodes.sum()),
        "bytes": {
            "lan": int(record.bytes_sent.sum()),
            "uplink_up": record.uplink_bytes[-1][0],
            "uplink_down": record.uplink_bytes[-1][1],
        },
        "joules": _joules(record),
        "price_usd": _rounded(record.cloud_price + _link_price(record)),
        "evictions": record.evictions,
        "by_hour": _by_hour(record, times, answers, latencies),
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
        "model": scenario.model,
        "link": scenario.link,
        "uplink": scenario.uplink,
        "cloud": scenario.cloud,
        "memory_bytes": scenario.memory,
        "disk_bytes": scenario.disk_bytes,
        "policy": scenario.policy,
        "replicas": scenario.replicas,
        "faults": list(scenario.faults),
    }


# -- without a cache ------------------------------------------------------------------------------------------------


def always_encode(record: Record) -> NDArray[np.float64]:
    """The latency of each request if its device encoded every image, one after the other."""
    device = DEVICES[record.scenario.device]
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
    fixed_s = uplink.round_trip_s + _CLOUD.encode_s + size / uplink.down_bytes_per_s + slow_start_s(size, uplink)
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


def _encoding_costs(scenario: Scenario, requests: int) -> dict[str, Any]:
    return {"joules": _rounded(requests * DEVICES[scenario.device].joules_per_encode(scenario.model)), "price_usd": 0.0}


def _cloud_costs(record: Record, asked: NDArray[np.bool_]) -> dict[str, Any]:
    scenario, requests = record.scenario, int(asked.sum())
    link, uplink = LINKS[scenario.link], LINKS[scenario.uplink]
    up, down = int(image_bytes(record)[asked].sum()), requests * entry_bytes(scenario.model)
    joules = up * _sent(link, uplink) + down * _received(link, uplink)
    price = requests * _CLOUD.price_per_encode + down * _CLOUD.price_per_byte_out + (up + down) * uplink.price_per_byte
    return {
        "joules": _rounded(joules),
        "price_usd": _rounded(price),
        "bytes": {"uplink_up": up, "uplink_down": down},
    }


# -- with it --------------------------------------------------------------------------------------------------------


def _joules(record: Record) -> dict[str, float]:
    device: Device = DEVICES[record.scenario.device]
    link, uplink = LINKS[record.scenario.link], LINKS[record.scenario.uplink]
    encoding = float(record.encodes.sum()) * device.joules_per_encode(record.scenario.model)
    sent, received = float(record.bytes_sent.sum()), float(record.bytes_received.sum())
    lan = sent * link.joules_per_byte_sent + received * link.joules_per_byte_received
    up, down = record.uplink_bytes[-1]
    cloud = up * _sent(link, uplink) + down * _received(link, uplink)
    parts = {"encoding": encoding, "lan": lan, "uplink": cloud}
    return {name: _rounded(value) for name, value in {**parts, "all": sum(parts.values())}.items()}


def _sent(link: Link, uplink: Link) -> float:
    """Joules for a byte to the cloud: over the device's link, if that is not the uplink itself, and the uplink."""
    return uplink.joules_per_byte_sent + (link.joules_per_byte_sent if link is not uplink else 0.0)


def _received(link: Link, uplink: Link) -> float:
    return uplink.joules_per_byte_received + (link.joules_per_byte_received if link is not uplink else 0.0)


def _link_price(record: Record) -> float:
    """What the devices' own links cost, each byte where it is sent and where it is received."""
    moved = float(record.bytes_sent.sum() + record.bytes_received.sum())
    return moved * LINKS[record.scenario.link].price_per_byte


def _by_hour(
    record: Record, times: NDArray[np.float64], answers: NDArray[np.int8], latencies: NDArray[np.float64]
) -> list[dict[str, Any]]:
    hours = (times // HOUR_S).astype(np.int64)
    lan, up, down = 0, 0, 0
    rows = []
    for hour in range(
        max(1, int(np.ceil(record.scenario.hours)) if not record.scenario.is_log else int(hours[-1]) + 1)
    ):
        mine = hours == hour
        at = min(hour, len(record.lan_bytes) - 1)
        lan_now, (up_now, down_now) = record.lan_bytes[at], record.uplink_bytes[at]
        rows.append(
            {"hour": hour, "requests": int(mine.sum()), **counts(answers[mine]),
             "hit_rate": _share(answers[mine] < Answer.ENCODER),
             "p95_ms": _latencies(latencies[mine & (answers <= Answer.ENCODER)])["p95"],
             "lan_bytes": lan_now - lan, "uplink_up_bytes": up_now - up, "uplink_down_bytes": down_now - down}
        )  # fmt: skip
        lan, up, down = lan_now, up_now, down_now
    return rows


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
        "mean": _rounded(float(seconds.mean()) * 1000),
        **{n: _rounded(v) for n, v in zip(names, found, strict=True)},
    }


def _rounded(value: float) -> float:
    """Six digits: more than any of it means, and the same on every machine."""
    return float(f"{value:.6g}")
