"""Drones that survey neighbouring strips of ground again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .requests import HOUR_S, Requests, bounded, in_order, numbered


@dataclass(frozen=True)
class Drones:
    """Each drone flies to and fro over its strip, tile by tile, lands for a new battery, and flies it again.

    A tile is one picture of the map that is being made: drones register what they see to it. Strips are `strip` tiles
    wide and `length` long, and a share `overlap` of a strip is its neighbours' too (photogrammetry wants 60 to 80 %
    along a line and 30 % and more across). Between two flights a share `changed` of the tiles changes for good.
    """

    strip: int = 10
    length: int = 60
    overlap: float = 0.4
    tile_s: float = 2.0
    pause_s: float = 300.0
    changed: float = 0.05

    def requests(self, devices: int, hours: float, rng: np.random.Generator) -> Requests:
        """Drones take off some seconds after each other."""
        apart = max(1, round(self.strip * (1 - self.overlap)))
        flight_s = self.strip * self.length * self.tile_s
        flights = int(np.ceil(hours * HOUR_S / (flight_s + self.pause_s)))
        columns, rows = apart * devices + self.strip, self.length
        bounded(flights * self.length * max(columns, devices * self.strip))
        edition = np.cumsum(rng.random((flights, columns, rows)) < self.changed, axis=0)
        times, of, images = [], [], []
        line, along = np.divmod(np.arange(self.strip * rows), rows)
        along = np.where(line % 2 == 0, along, rows - 1 - along)
        for device in range(devices):
            column = device * apart + line
            for flight in range(flights):
                at = flight * (flight_s + self.pause_s) + device * 5.0 + np.arange(len(line)) * self.tile_s
                times.append(at + rng.random(len(line)) * 0.5)
                of.append(np.full(len(line), device, np.int64))
                images.append(numbered(column * rows + along, edition[flight, column, along]))
        time, who, image = np.concatenate(times), np.concatenate(of), np.concatenate(images)
        is_within = time < hours * HOUR_S
        return in_order(time[is_within], who[is_within], image[is_within])
