"""A shop floor: shelf cameras, service robots and price scanners that look up product photographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...protocol.errors import InvalidValue
from .requests import HOUR_S, Requests, arrivals, in_order, numbered, opening_hours, zipf


@dataclass(frozen=True)
class Retail:
    """Devices see what the shop sells, which all of them see, and the scenes of their own corner.

    What a sensor delivers never repeats bit for bit. What does are key frames: a change detector sends the stored
    picture of a scene that it recognises, and product photographs are files. So a request is for one of these:

    - with probability `overlap` a product photograph, the same for all devices, by Zipf's law with exponent 0.9
      (requests for web pages follow exponents of 0.6 to 1.03: Krashakov et al., cs/0404010);
    - else one of the device's own scenes. Those depend on the hour and recur the next day, since light, stock and
      visitors do; 24 × 10 in all, of which those of the hour and its neighbours are likely;
    - with probability `novel` something never seen before.
    """

    per_hour: float = 360.0
    """Requests of each device while the shop is open: one in ten seconds."""
    overlap: float = 0.5
    products: int = 3000
    exponent: float = 0.9
    scenes_per_hour: int = 10
    novel: float = 0.03
    opens: float = 8.0
    closes: float = 21.0

    def __post_init__(self) -> None:
        if not self.opens < self.closes:
            raise InvalidValue(f"opens = {self.opens:g}, closes = {self.closes:g}: expected it to close after it opens")

    def requests(self, devices: int, hours: float, rng: np.random.Generator) -> Requests:
        """A run begins at 0 o'clock, or at opening time if it is shorter than a day."""
        begins = 0.0 if hours >= 24 else self.opens
        rate = opening_hours(self.per_hour, self.opens, self.closes)
        times, of = arrivals(rng, devices, hours, lambda hour: rate(begins + hour))
        count = len(times)
        products = numbered(0, 0, zipf(rng, self.products, self.exponent, count))
        hour = (np.floor(begins + times / HOUR_S + rng.normal(0, 0.7, count)) % 24).astype(np.int64)
        scenes = numbered(1, of, hour * self.scenes_per_hour + zipf(rng, self.scenes_per_hour, 0.8, count))
        images = np.where(rng.random(count) < self.overlap, products, scenes)
        novel = numbered(2, 0, np.arange(count))
        return in_order(times, of, np.where(rng.random(count) < self.novel, novel, images))
