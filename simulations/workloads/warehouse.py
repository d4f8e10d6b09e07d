"""A warehouse: robots that drive the same routes and localise themselves by what they see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .requests import HOUR_S, Requests, bounded, in_order, numbered


@dataclass(frozen=True)
class Warehouse:
    """Robots go round, one behind the other, and need the features of each waypoint's key frame.

    A robot needs a key frame every `step_s` (2 m at 0.7 m/s). A share `overlap` of its round are main aisles, which all
    drive; the rest are aisles of its own. What is seen at a waypoint changes when pallets are moved, every
    `changes_h` on average, between `looks` states that recur; `novel` is the share of views with a person or a fork
    lift in them. A round is longer than a small memory: LRU's worst case, and real.
    """

    waypoints: int = 600
    step_s: float = 3.0
    overlap: float = 0.8
    looks: int = 3
    changes_h: float = 4.0
    novel: float = 0.02

    def requests(self, devices: int, hours: float, rng: np.random.Generator) -> Requests:
        """Robots are spread over the round; each has its own pace, up to 5 % faster or slower."""
        bounded(devices * hours * HOUR_S / self.step_s)
        shared = round(self.waypoints * self.overlap)
        times, of, images = [], [], []
        phases = rng.random(self.waypoints * (devices + 1)) * self.changes_h
        for device in range(devices):
            step_s = self.step_s * (1 + rng.uniform(-0.05, 0.05))
            count = int(hours * HOUR_S / step_s)
            at = (np.arange(count) + rng.random(count) * 0.5) * step_s
            waypoint = (np.arange(count) + device * self.waypoints // max(devices, 1)) % self.waypoints
            is_own = waypoint >= shared
            place = np.where(is_own, waypoint + self.waypoints * (device + 1), waypoint)
            look = ((at / HOUR_S + phases[place]) // self.changes_h).astype(np.int64) % self.looks
            image = numbered(0, place, look)
            novel = numbered(1, device, np.arange(count))
            times.append(at)
            of.append(np.full(count, device, np.int64))
            images.append(np.where(rng.random(count) < self.novel, novel, image))
        return in_order(np.concatenate(times), np.concatenate(of), np.concatenate(images))
