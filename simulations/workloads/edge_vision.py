"""A site's cameras over some days: scenes that come back by the hour, and in them things that are looked at.

Each look asks for the features of one thing: a crop that a detector cut out, a keyframe of a view. A key is a name that
stands for its digest. The same thing has the same key, which is what a tracker that hands over its best crop, or a
camera before a still view, gives a cache; near-duplicates are another workload.

Five things happen, each as often as its parameters say: a thing comes into view and is looked at once or in a burst;
somebody passes by who is never seen again; a camera turns through its tour of views; the hour changes, and with it the
scene; a camera is turned away from its scene for a while. The parameters' reasons stand beside them. They were chosen
for being plausible before any policy had run on them.
"""

from __future__ import annotations

import heapq
import itertools
import random
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from ...protocol.errors import InvalidValue

HOUR_S = 3600.0
HOURS_PER_DAY = 24
LATE = range(7)  # the hours with few people about

# A thing's features in bytes: so many tokens of a 768-wide encoder in INT8 with a scale each, after a header.
# A whole view has the 14 × 14 of a ViT-B/16 at 224 pixels; of a crop, merging leaves a half, a quarter or an eighth.
TOKENS_OF_VIEW, TOKENS_OF_CROP = 196, (98, 49, 24)
BYTES_PER_TOKEN, BYTES_OF_HEADER = 772, 192


class Look(NamedTuple):
    """`camera` asks for the features of `key` at `time_s`; they have `size` bytes."""

    time_s: float
    camera: int
    key: str
    size: int


@dataclass(frozen=True, kw_only=True)
class EdgeVision:
    """What the site is like. InvalidValue for what cannot be."""

    cameras: int = 4  # a shop floor, a corridor, a small warehouse
    days: int = 2  # the least in which an hour comes back
    scenes: int = 6  # delivery, opening, quiet, busy, cleaning, closed: what a day's program is made of
    things_per_scene: int = 1500  # products of some shelves, or parts of a line, in each camera's view of a scene
    zipf: float = 0.9  # popularity by rank; 0.6 to 1.0 is what web and video requests have (Breslau et al., 1999)
    things_per_hour: float = 360.0  # one every 10 s before each camera in the daytime
    late_share: float = 0.2  # of that, by night
    again: float = 0.4  # that one more look follows a look: two of three things get one, the others 2.5 on average
    again_after_s: float = 5.0  # between the looks of a burst: a tracker's next good crop
    passers_by: float = 0.15  # of what comes into view: customers, vehicles, never the same again
    overlap: float = 0.3  # of a scene's things are known to all cameras by the same key; the rest to one alone
    restocked: float = 0.1  # of the things are other ones the next day
    tour_every_s: float = 1800.0  # a pan-tilt camera, or the robot that carries it, makes its round twice an hour
    tour_views: int = 100  # always in the same order; common cameras store up to 256 presets
    view_s: float = 3.0  # before it turns to the next
    away_per_day: float = 4.0  # times a camera is turned to another scene, by an operator or an event
    away_s: float = 600.0  # for about so long

    def __post_init__(self) -> None:
        for name in ("cameras", "days", "scenes", "things_per_scene"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("late_share", "passers_by", "overlap", "restocked"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a share from 0 to 1")
        for name in ("zipf", "tour_views", "away_per_day"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "not below 0")
        for name in ("things_per_hour", "again_after_s", "tour_every_s", "view_s", "away_s"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        _require(0 <= self.again < 1, "again", self.again, "from 0 to below 1")
        tour_s = self.tour_views * self.view_s
        _require(
            tour_s <= self.tour_every_s, "tour_every_s", self.tour_every_s, f"no shorter than the tour, {tour_s:g} s"
        )

    def looks(self, seed: int) -> Iterator[Look]:
        """Every look of every camera in the order of time; the same for the same seed, whatever PYTHONHASHSEED says."""
        program = self._program(seed)
        yield from heapq.merge(*(self._camera(seed, camera, program) for camera in range(self.cameras)))

    def _program(self, seed: int) -> list[int]:
        """The scene of each hour, the same every day: scene 0 late at night, and by day some that last or come back."""
        rng = random.Random(f"{seed}:program")
        by_day = [rng.randrange(1, self.scenes) if self.scenes > 1 else 0 for _ in range(HOURS_PER_DAY)]
        return [0 if hour in LATE else scene for hour, scene in enumerate(by_day)]

    def _camera(self, seed: int, camera: int, program: list[int]) -> Iterator[Look]:
        """What one camera asks for: what comes into view, and its tours, merged."""
        whereabouts = self._whereabouts(seed, camera, program)
        yield from heapq.merge(self._encounters(seed, camera, whereabouts), self._tours(seed, camera, whereabouts))

    def _whereabouts(self, seed: int, camera: int, program: list[int]) -> list[tuple[float, int]]:
        """From when on the camera sees which scene: the program's, but for when it is turned away."""
        rng = random.Random(f"{seed}:{camera}:whereabouts")
        end = self.days * HOURS_PER_DAY * HOUR_S
        away: list[tuple[float, float, int]] = []
        now = 0.0
        while self.away_per_day and (now := now + rng.expovariate(self.away_per_day / (HOURS_PER_DAY * HOUR_S))) < end:
            until = now + rng.expovariate(1 / self.away_s)
            away.append((now, until, rng.randrange(self.scenes)))
            now = until
        turns = {hour * HOUR_S for hour in range(self.days * HOURS_PER_DAY)} | {
            turn for start, until, _ in away for turn in (start, until)
        }
        seen = []
        for turn in sorted(turns):
            elsewhere = next((scene for start, until, scene in away if start <= turn < until), None)
            by_program = program[int(turn // HOUR_S) % HOURS_PER_DAY]
            seen.append((turn, by_program if elsewhere is None else elsewhere))
        return seen

    def _encounters(self, seed: int, camera: int, whereabouts: list[tuple[float, int]]) -> Iterator[Look]:
        """Things of the scene and passers-by, each looked at in a burst; bursts overlap."""
        rng = random.Random(f"{seed}:{camera}:encounters")
        catalogue = _Catalogue(self, seed, camera)
        waiting: list[Look] = []  # the rest of each burst under way
        end = self.days * HOURS_PER_DAY * HOUR_S
        now = 0.0
        for number in itertools.count():
            is_late = int(now // HOUR_S) % HOURS_PER_DAY in LATE
            now += rng.expovariate(self.things_per_hour * (self.late_share if is_late else 1.0) / HOUR_S)
            if now >= end:
                break
            while waiting and waiting[0].time_s <= now:
                yield heapq.heappop(waiting)
            if rng.random() < self.passers_by:
                key = f"passer-by/{camera}/{number}"
            else:
                key = catalogue.thing(_at(whereabouts, now), int(now // (HOURS_PER_DAY * HOUR_S)), rng.random())
            size = _bytes(TOKENS_OF_CROP[crc32(key.encode()) % len(TOKENS_OF_CROP)])
            look = Look(now, camera, key, size)
            yield look
            while rng.random() < self.again:
                look = look._replace(time_s=look.time_s + rng.expovariate(1 / self.again_after_s))
                heapq.heappush(waiting, look)
        while waiting and waiting[0].time_s < end:
            yield heapq.heappop(waiting)

    def _tours(self, seed: int, camera: int, whereabouts: list[tuple[float, int]]) -> Iterator[Look]:
        """One round of views after the other. Each camera starts at its own minute."""
        start = random.Random(f"{seed}:{camera}:tours").random() * self.tour_every_s
        for round_ in itertools.count():
            for view in range(self.tour_views):
                now = start + round_ * self.tour_every_s + view * self.view_s
                if now >= self.days * HOURS_PER_DAY * HOUR_S:
                    return
                key = f"view/{_at(whereabouts, now)}/{camera}/{view}"
                yield Look(now, camera, key, _bytes(TOKENS_OF_VIEW))
            if not self.tour_views:
                return


class _Catalogue:
    """A camera's things, scene by scene: by rank, some known to all cameras, some replaced from day to day."""

    def __init__(self, site: EdgeVision, seed: int, camera: int) -> None:
        self._site = site
        self._seed = seed
        self._camera = camera
        weights = (1.0 / rank**site.zipf for rank in range(1, site.things_per_scene + 1))
        self._popularity = list(itertools.accumulate(weights))
        self._names: dict[tuple[int, int], list[str]] = {}

    def thing(self, scene: int, day: int, chance: float) -> str:
        """The key of a thing of `scene`; `chance` from 0 to 1 draws it by popularity."""
        names = self._names.get((scene, day))
        if names is None:
            names = self._names[scene, day] = self._named(scene, day)
        return names[bisect(self._popularity, chance * self._popularity[-1])]

    def _named(self, scene: int, day: int) -> list[str]:
        """Each rank's key. What all cameras share, and what is replaced, is the same for all: the site's own draw."""
        ranks = range(self._site.things_per_scene)
        shared = random.Random(f"{self._seed}:{scene}:shared")
        owners = ["site" if shared.random() < self._site.overlap else str(self._camera) for _ in ranks]
        ages = [0] * len(ranks)
        for past in range(day):
            changes = random.Random(f"{self._seed}:{scene}:{past}:restocked")
            ages = [age + (changes.random() < self._site.restocked) for age in ages]
        return [f"thing/{scene}/{owners[rank]}/{rank}.{ages[rank]}" for rank in ranks]


def _at(whereabouts: list[tuple[float, int]], now: float) -> int:
    return whereabouts[bisect(whereabouts, (now, 1 << 62)) - 1][1]


def _bytes(tokens: int) -> int:
    return tokens * BYTES_PER_TOKEN + BYTES_OF_HEADER


def _require(is_so: bool, name: str, value: float, what: str) -> None:
    if not is_so:
        raise InvalidValue(f"edge-vision: {name} is {value:g}, but must be {what}")
