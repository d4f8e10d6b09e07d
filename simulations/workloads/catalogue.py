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
        if key in _SHARES and not 0 <= value <= 1:
            raise InvalidValue(f"{key} = {value!r} of workload {name}: expected a share from 0 to 1")
        if key not in _SHARES and value <= 0 and key not in ("opens", "begins", "pause_s"):
            raise InvalidValue(f"{key} = {value!r} of workload {name}: expected a number above 0")
    made: Workload = WORKLOADS[name](**parameters)
    return made
