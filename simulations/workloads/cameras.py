"""Cameras of one site, in scenes that recur by the hour (`edge_vision.py`), as requests of devices."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from .edge_vision import HOURS_PER_DAY, EdgeVision
from .requests import HOUR_S, Requests, bounded, in_order


@dataclass(frozen=True)
class Cameras:
    """`EdgeVision` with its own reasons; these of its parameters can be changed here.

    A run of less than a day begins at 8 o'clock, when something happens.
    """

    overlap: float = 0.3
    things_per_scene: int = 1500
    things_per_hour: float = 360.0
    exponent: float = 0.9
    begins: float = 8.0

    def requests(self, devices: int, hours: float, rng: np.random.Generator) -> Requests:
        """One camera a device."""
        bounded(devices * hours * self.things_per_hour / (1 - EdgeVision.again))
        begins_s = (self.begins if hours < HOURS_PER_DAY else 0.0) * HOUR_S
        site = EdgeVision(
            cameras=devices,
            days=int(np.ceil((begins_s / HOUR_S + hours) / HOURS_PER_DAY)),
            things_per_scene=self.things_per_scene,
            things_per_hour=self.things_per_hour,
            overlap=self.overlap,
            zipf=self.exponent,
        )
        looks = takewhile(lambda look: look.time_s < begins_s + hours * HOUR_S, site.looks(int(rng.integers(2**31))))
        numbers: dict[str, int] = {}
        rows = [
            (look.time_s - begins_s, look.camera, numbers.setdefault(look.key, len(numbers)))
            for look in looks
            if look.time_s >= begins_s
        ]
        times, of, images = zip(*rows, strict=True) if rows else ((), (), ())
        return in_order(np.array(times, np.float64), np.array(of, np.int64), np.array(images, np.int64))
