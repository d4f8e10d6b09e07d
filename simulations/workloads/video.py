"""Video: frames whose neighbours are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .requests import HOUR_S, Requests, bounded, in_order, numbered, zipf


@dataclass(frozen=True)
class Video:
    """Cameras at a steady rate; most frames are found to be like the one before, and need its features again.

    A frame is like its predecessor with probability `still`: an estimate, between static scenes, where most are, and
    moving cameras, where hardly any is. Otherwise the camera looks at another of its `scenes`, which with probability
    `overlap` is one that its neighbours see as well, or, with probability `novel`, at something new.
    """

    frames_per_s: float = 0.5
    still: float = 0.7
    scenes: int = 60
    overlap: float = 0.5
    novel: float = 0.2

    def requests(self, devices: int, hours: float, rng: np.random.Generator) -> Requests:
        """Cameras are not in step."""
        bounded(devices * hours * HOUR_S * self.frames_per_s)
        times, of, images = [], [], []
        count = int(hours * HOUR_S * self.frames_per_s)
        for device in range(devices):
            at = (np.arange(count) + rng.random()) / self.frames_per_s
            scene = zipf(rng, self.scenes, 0.8, count)
            is_common = rng.random(count) < self.overlap
            looks = np.where(is_common, numbered(0, 0, scene), numbered(1, device, scene))
            looks = np.where(rng.random(count) < self.novel, numbered(2, device, np.arange(count)), looks)
            changes = rng.random(count) >= self.still
            changes[:1] = True
            times.append(at)
            of.append(np.full(count, device, np.int64))
            images.append(looks[np.maximum.accumulate(np.where(changes, np.arange(count), 0))])
        time, who, image = np.concatenate(times), np.concatenate(of), np.concatenate(images)
        is_within = time < hours * HOUR_S
        return in_order(time[is_within], who[is_within], image[is_within])
