"""What a run costs in joules and in money, link by link: with the cache, and without."""

from __future__ import annotations

from typing import Any

from .cloud import CloudService
from .links import LINKS, Link
from .record import Meter
from .scenario import Scenario

CLOUD = CloudService()


def with_cache(scenario: Scenario, meter: Meter) -> dict[str, Any]:
    """Of what the meter shows: encoding, bytes between devices (`lan`), bytes of the uplink, and the cloud's store."""
    link, uplink = LINKS[scenario.link], LINKS[scenario.uplink]
    moved = meter.lan_sent + meter.lan_received
    return {
        "joules": _summed(
            encoding=meter.encodes * scenario.profile.joules_per_encode(scenario.model),
            lan=meter.lan_sent * link.joules_per_byte_sent + meter.lan_received * link.joules_per_byte_received,
            uplink=_uplink_joules(link, uplink, meter.uplink_up, meter.uplink_down),
        ),
        "price_usd": _summed(
            lan=moved * link.price_per_byte,
            uplink=_uplink_price(link, uplink, meter.uplink_up + meter.uplink_down),
            store=meter.store_usd,
        ),
    }


def always_encoding(scenario: Scenario, requests: int) -> dict[str, Any]:
    """If each request were encoded where it comes from."""
    return {
        "joules": _summed(encoding=requests * scenario.profile.joules_per_encode(scenario.model)),
        "price_usd": _summed(),
    }


def in_the_cloud(scenario: Scenario, requests: int, up: int, down: int) -> dict[str, Any]:
    """If each request's image were sent up, encoded there, and its features came down."""
    link, uplink = LINKS[scenario.link], LINKS[scenario.uplink]
    return {
        "joules": _summed(uplink=_uplink_joules(link, uplink, up, down)),
        "price_usd": _summed(
            uplink=_uplink_price(link, uplink, up + down),
            encoding=requests * CLOUD.price_per_encode,
            egress=down * CLOUD.price_per_byte_out,
        ),
        "bytes": {"uplink_up": up, "uplink_down": down},
    }


def rounded(value: float) -> float:
    """Six digits: more than any of it means, and the same on every machine."""
    return float(f"{value:.6g}")


def _uplink_joules(link: Link, uplink: Link, up: int, down: int) -> float:
    return sum(up * each.joules_per_byte_sent + down * each.joules_per_byte_received for each in _way(link, uplink))


def _uplink_price(link: Link, uplink: Link, moved: int) -> float:
    return sum(moved * each.price_per_byte for each in _way(link, uplink))


def _way(link: Link, uplink: Link) -> list[Link]:
    """A byte to the cloud goes over the device's link, if that is not the uplink itself, and the uplink."""
    return [uplink] if link is uplink else [link, uplink]


def _summed(**parts: float) -> dict[str, float]:
    return {name: rounded(value) for name, value in {**parts, "all": sum(parts.values())}.items()}
