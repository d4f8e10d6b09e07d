"""A street of cameras that follow vehicles from one to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .requests import HOUR_S, Requests, bounded, in_order, numbered


@dataclass(frozen=True)
class Street:
    """Vehicles enter somewhere and pass camera after camera; each needs the features of the vehicle's picture.

    The camera that sees a vehicle first sends its best picture on with the track, and the next ones compare with it: so
    all need the features of one and the same picture. A vehicle goes on to the next camera with probability `overlap`,
    after `travel_s` ± a quarter, and each camera needs its features `looks` times while it is in view. `regulars` is
    the share of vehicles that come again (delivery vans, buses), with a stored picture. A camera gets `per_hour`
    vehicles; 300 is a side street, 1,000 a main road.
    """

    per_hour: float = 120.0
    overlap: float = 0.8
    travel_s: float = 20.0
    looks: int = 3
    regulars: float = 0.2
    regular_vehicles: int = 200

    def requests(self, devices: int, hours: float, rng: np.random.Generator) -> Requests:
        """Vehicles enter at any camera, half of them in each direction, as many as make `per_hour` at each camera."""
        bounded(self.per_hour * devices * hours * self.looks)
        hops = min(float(devices), 1 / max(1 - self.overlap, 1e-9))
        vehicles = int(rng.poisson(self.per_hour * devices * hours / hops))
        enters_at = rng.random(vehicles) * hours * HOUR_S
        camera = rng.integers(0, devices, vehicles)
        direction = np.where(rng.random(vehicles) < 0.5, 1, -1)
        is_regular = rng.random(vehicles) < self.regulars
        regular = rng.integers(0, self.regular_vehicles, vehicles)
        picture = np.where(is_regular, numbered(0, 0, regular), numbered(1, 0, np.arange(vehicles)))
        at, here, going = enters_at, camera, np.arange(vehicles)
        times, of, images = [at[:0]], [here[:0]], [going[:0]]
        while len(going):
            for look in range(self.looks):
                times.append(at + look)
                of.append(here)
                images.append(picture[going])
            here = here + direction[going]
            goes_on = (rng.random(len(going)) < self.overlap) & (here >= 0) & (here < devices)
            at = (at + self.travel_s * rng.uniform(0.75, 1.25, len(going)))[goes_on]
            here, going = here[goes_on], going[goes_on]
        time, device, image = np.concatenate(times), np.concatenate(of), np.concatenate(images)
        is_within = time < hours * HOUR_S
        return in_order(time[is_within], device[is_within], image[is_within])
