"""A fleet of kiosks that show pictures from a catalogue; and one day, something that everybody wants to see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocol.errors import InvalidValue
from .requests import HOUR_S, Requests, arrivals, in_order, numbered, zipf


@dataclass(frozen=True)
class Kiosks:
    """Independent visitors choose from a catalogue by Zipf's law.

    Each picture is replaced after `lifetime_h` on average. With probability `overlap` a visitor chooses from the
    catalogue of all kiosks, else from the kiosk's own (offers of this shop), a tenth as large. The exponent is
    an estimate, as retail's.
    """

    per_hour: float = 240.0
    overlap: float = 0.8
    catalogue: int = 5000
    exponent: float = 1.0
    lifetime_h: float = 48.0

    def requests(self, devices: int, hours: float, rng: np.random.Generator) -> Requests:
        """Around the clock."""
        times, of = arrivals(rng, devices, hours, lambda hour: self.per_hour)
        return in_order(times, of, self._choose(times, of, devices, rng))

    def _choose(
        self, times: NDArray[np.float64], of: NDArray[np.int64], devices: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        count, own = len(times), max(1, self.catalogue // 10)
        is_common = rng.random(count) < self.overlap
        rank = np.where(
            is_common, zipf(rng, self.catalogue, self.exponent, count), zipf(rng, own, self.exponent, count)
        )
        place = np.where(is_common, 0, of + 1)
        phase = rng.random((devices + 1, self.catalogue)) * self.lifetime_h
        edition = ((times / HOUR_S + phase[place, rank]) // self.lifetime_h).astype(np.int64)
        return numbered(place, rank, edition)


@dataclass(frozen=True)
class FlashCrowd(Kiosks):
    """Kiosks on a day when, for `crowd_minutes` from the middle of the run, everybody asks for `crowd_images` pictures.

    Requests are `crowd_factor` times as many then, at all kiosks: a goal, a message, a discount.
    """

    crowd_minutes: float = 10.0
    crowd_images: int = 5
    crowd_factor: float = 15.0

    def __post_init__(self) -> None:
        if not self.crowd_factor >= 1:
            raise InvalidValue(f"crowd_factor = {self.crowd_factor:g}: expected 1 or more")

    def requests(self, devices: int, hours: float, rng: np.random.Generator) -> Requests:
        """The day as ever, and the crowd on top."""
        times, of = arrivals(rng, devices, hours, lambda hour: self.per_hour)
        images = self._choose(times, of, devices, rng)
        crowd_h = min(self.crowd_minutes / 60, hours / 2)
        since, who = arrivals(rng, devices, crowd_h, lambda hour: self.per_hour * (self.crowd_factor - 1))
        what = numbered(devices + 1, 0, rng.integers(0, self.crowd_images, len(since)))
        return in_order(
            np.concatenate([times, hours / 2 * HOUR_S + since]),
            np.concatenate([of, who]),
            np.concatenate([images, what]),
        )
