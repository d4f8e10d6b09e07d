"""Workloads by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from ...protocol.errors import InvalidValue
from .cameras import Cameras
from .drones import Drones
from .kiosks import FlashCrowd, Kiosks
from .requests import Workload
from .retail import Retail
from .street import Street
from .video import Video
from .warehouse import Warehouse

WORKLOADS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "retail": Retail,
        "warehouse": Warehouse,
        "street": Street,
        "kiosks": Kiosks,
        "flash-crowd": FlashCrowd,
        "drones": Drones,
        "video": Video,
        "cameras": Cameras,
    }
)
_SHARES = ("overlap", "novel", "still", "regulars", "changed")
ITEMS_MAX = 2**20
"""Of products, pictures, tiles, waypoints: more than any site has."""
# What may be 0, and the most that others may be; what is not named, up to ITEMS_MAX.
_MAY_BE_ZERO = (*_SHARES, "opens", "begins", "pause_s")
_MOST = MappingProxyType(dict.fromkeys(_SHARES, 1) | {"exponent": 10, "opens": 24, "closes": 24, "begins": 24})


def workload(name: str, parameters: Mapping[str, Any]) -> Workload:
    """The workload of that name with these parameters; InvalidValue says what there is, and what is wrong."""
    if name not in WORKLOADS:
        raise InvalidValue(f"there is no workload {name!r}, but {', '.join(WORKLOADS)}")
    kinds = {field.name: field.default for field in fields(WORKLOADS[name])}
    for key, value in parameters.items():
        if key not in kinds:
            raise InvalidValue(f"workload {name} has no parameter {key!r}, but {', '.join(kinds)}")
        if isinstance(value, bool) or not isinstance(value, int if isinstance(kinds[key], int) else (int, float)):
            raise InvalidValue(f"{key} = {value!r} of workload {name}: expected a number such as {kinds[key]}")
        most, least = _MOST.get(key, ITEMS_MAX), "from 0" if key in _MAY_BE_ZERO else "above 0"
        if not (0 <= value <= most and (value or key in _MAY_BE_ZERO)):
            what = "a share" if key in _SHARES else "a number"
            raise InvalidValue(f"{key} = {value!r} of workload {name}: expected {what} {least} to {most}")
    made: Workload = WORKLOADS[name](**parameters)
    return made
