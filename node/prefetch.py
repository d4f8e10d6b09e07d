"""What to fetch before it is asked for. Pure: told of requests, it names keys; told what became of them, it learns.

Eviction decides among what is there, and cannot keep a thing from one visit of a scene to the next if more comes
between than fits. But what comes next is often known: a camera on its tour, a line of parts, a shop that opens.

by sequence     what followed this key before, in this stream or any other (`Successors`): a Markov table of first
                order whose edges reach over the next `REACH` keys, since between two views of a tour others are seen
by time of day  what was asked for in this hour on other days, or in hours that what is seen now looks like (`Hours`):
                scenes come back when the clock says so, and at other times too

A forecast must pay. Each counts what it had fetched and what of that was asked for: one whose share falls below
`PRECISION_MIN` is switched off, and from then on one in `TRICKLE` of its candidates shows whether it pays again. What
is fetched is bounded by the link (`LINK_BYTES_PER_S`), by the entries under way, and by its share of memory.

Palmer and Zdonik, "Fido: A Cache That Learns to Fetch", VLDB 1991; Kroeger and Long, "Predicting File System Actions
from Prior Events", USENIX 1996. Neither knows the hour, nor asks itself whether it pays.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)

# -- by sequence
SUCCESSOR_KEYS_MIN, SUCCESSOR_KEYS_MAX = 256, 16_384
SUCCESSOR_KEY_BYTES = 600  # what a key and its successors take
SUCCESSORS_MAX = 4  # of each key
REACH = 3
STREAMS_MAX = 256
PROBABILITY_MIN = 0.4
TIMES_MIN = 2  # once is no pattern
HALVED_AT = 32  # what was learnt long ago counts less

# -- by time of day
HOUR_KEYS_MIN, HOUR_KEYS_MAX = 64, 2048  # of each hour
HOUR_KEY_BYTES = 200
LOOKED_AT = 48  # keys of the present hour that are compared with other hours
LIKE_MIN = 0.25  # share of them that another hour knows, for it to be like the present one
LIKE_BEST = 0.6  # and of what the likest hour knows
BURST_KEYS = 32  # the same key again within so many keys is the same event
COUNT_MIN = 1.0  # in one such hour on average, for a key to be expected
COMPARED_EVERY = 8  # requests
TOGETHER = 4  # keys named at a request

# -- whether it pays
# One of seven: reading 151 KB from an idle disk or a peer takes about 1 ms, and encoding takes 8.7 on a fast machine.
PRECISION_MIN = 0.15
OUTCOMES = 512  # of late make the precision; those of an hour end together, so fewer would swing with it
FEW = 32  # the first outcomes alone do not end it
TRICKLE = 16

# -- how much
LINK_BYTES_PER_S = 2_000_000  # a sixth of 100 Mbit/s
BURST_BYTES = 8_000_000
UNDER_WAY_MAX = 16
WAITING_MAX = 4096
MEMORY_SHARE = 0.5  # of memory may be waiting to be asked for
TABLE_SHARE = 1 / 16  # and what is learnt may take as much as this of it, by sequence and by hour each


class Forecast(StrEnum):
    """Whose idea it was."""

    SEQUENCE = "sequence"
    HOUR = "hour"


# What was not asked for by then was fetched in vain.
GIVEN_UP_AFTER_S = {Forecast.SEQUENCE: 120.0, Forecast.HOUR: 3600.0}


class _Seen(Generic[Key]):
    """A key, how often it was seen, and what came soon after it."""

    __slots__ = ("after", "key", "uses")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.uses = 0
        self.after: dict[Key, int] = {}


class Successors(Generic[Key]):
    """Which keys came soon after which, over all streams; bounded, the least recently seen goes.

    Each request brings its key as another object; the one that came first stands for it everywhere here.
    """

    def __init__(self, keys_max: int = SUCCESSOR_KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._table: OrderedDict[Key, _Seen[Key]] = OrderedDict()
        self._streams: OrderedDict[Hashable, deque[_Seen[Key]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def seen(self, stream: Hashable, key: Key) -> None:
        """`stream` asks for `key`. The same once more says nothing new."""
        lately = self._streams.pop(stream, None)
        if lately is None:
            lately = deque(maxlen=REACH)
            if len(self._streams) >= STREAMS_MAX:
                self._streams.popitem(last=False)
        self._streams[stream] = lately
        if any(before.key == key for before in lately):
            return
        known = self._table.get(key)
        if known is None:
            if len(self._table) >= self._keys_max:
                self._table.popitem(last=False)
            known = self._table[key] = _Seen(key)
        else:
            self._table.move_to_end(key)
        for before in lately:
            _count(before.after, known.key, SUCCESSORS_MAX)
        lately.append(known)
        known.uses += 1
        if known.uses >= HALVED_AT:
            known.uses //= 2
            for successor in known.after:
                known.after[successor] //= 2

    def after(self, key: Key) -> list[Key]:
        """What will probably come soon after `key`, which was just seen, the likeliest first."""
        known = self._table.get(key)
        if known is None:
            return []
        least = max(PROBABILITY_MIN * (known.uses - 1), TIMES_MIN)  # what follows this time is not known yet
        likely = [successor for successor, count in known.after.items() if count >= least]
        return sorted(likely, key=lambda successor: -known.after[successor])


class Hours(Generic[Key]):
    """Which keys were asked for in which hour of the day, and which other hour the present one is like."""

    def __init__(self, keys_max: int = HOUR_KEYS_MAX) -> None:
        self._keys_max = keys_max  # of each hour
        self._counts: list[dict[Key, int]] = [{} for _ in range(24)]
        self._hour: int | None = None
        self._now: dict[Key, int] = {}  # the present hour's own
        self._lately: deque[Key] = deque(maxlen=LOOKED_AT)
        self._burst: deque[Key] = deque(maxlen=BURST_KEYS)
        self._requests = 0
        self._like: list[int] = []
        self._coming: Iterator[Key] = iter(())

    def seen(self, hour: int, key: Key) -> None:
        """`key` is asked for in that hour of the day."""
        if hour != self._hour:
            self._turn(hour)
        if key in self._burst:  # a second look at the same thing says nothing of when the next comes
            return
        self._burst.append(key)
        if key not in self._now:
            self._lately.append(key)
        self._now[key] = self._now.get(key, 0) + 1
        if len(self._now) >= 2 * self._keys_max:
            self._now = _most_counted(self._now, self._keys_max)
        self._requests += 1
        if self._requests % COMPARED_EVERY == 0:
            self._compare()

    def coming(self, is_held: Callable[[Key], bool]) -> list[Key]:
        """Some keys that this hour should bring and has not brought yet, the likeliest first; each is named once."""
        return list(islice((key for key in self._coming if key not in self._now and not is_held(key)), TOGETHER))

    def _turn(self, hour: int) -> None:
        if self._hour is not None:
            # Half of what was known, and what was seen now: yesterday counts twice the day before.
            old = self._counts[self._hour]
            for key in list(old):
                old[key] //= 2
                if not old[key] and key not in self._now:
                    del old[key]
            for key, count in self._now.items():
                old[key] = old.get(key, 0) + 2 * count
            self._counts[self._hour] = _most_counted(old, self._keys_max)
        self._hour, self._now, self._requests = hour, {}, 0
        self._lately.clear()
        self._expect([hour])  # until what is seen speaks for another

    def _compare(self) -> None:
        likeness = [sum(key in counts for key in self._lately) for counts in self._counts]
        least = max(LIKE_MIN * len(self._lately), LIKE_BEST * max(likeness))
        like = [hour for hour in range(24) if likeness[hour] >= least]
        if like != self._like:
            self._expect(like)

    def _expect(self, hours: list[int]) -> None:
        self._like = hours
        together: dict[Key, float] = {}
        for hour in hours:
            for key, count in self._counts[hour].items():
                together[key] = together.get(key, 0.0) + count / len(hours)
        likely = [key for key, count in together.items() if count >= COUNT_MIN]
        self._coming = iter(sorted(likely, key=lambda key: -together[key]))


@dataclass(slots=True)
class Record:
    """What became of what one forecast had fetched."""

    issued: int = 0
    used: int = 0
    wasted: int = 0
    absent: int = 0
    """Named, and nowhere to be had: in vain as well."""
    precision: float = 1.0
    """The share that was asked for, of late; 1 until the first outcomes are known."""
    skipped: int = 0

    @property
    def pays(self) -> bool:
        """Whether it goes on."""
        return self.precision >= PRECISION_MIN

    def outcome(self, *, was_used: bool) -> None:
        """One more was asked for while memory had it, or was not."""
        self.used += was_used
        self.wasted += not was_used
        self.judge(was_used=was_used)

    def judge(self, *, was_used: bool) -> None:
        """One more paid, or did not."""
        known = min(self.used + self.wasted + self.absent, OUTCOMES)
        self.precision += (was_used - self.precision) / max(known, FEW)


class _Fetched(NamedTuple):
    until: float
    nbytes: int


@dataclass(slots=True)
class _Budget:
    """A token bucket of bytes."""

    left: float = BURST_BYTES
    at: float = field(default=0.0)

    def has(self, now: float) -> bool:
        self.left = min(BURST_BYTES, self.left + (now - self.at) * LINK_BYTES_PER_S)
        self.at = now
        return self.left > 0


class Prefetcher(Generic[Key]):
    """Names what to fetch into a memory of `memory_bytes`, and keeps account of whether it paid."""

    def __init__(self, memory_bytes: int) -> None:
        self.records = {forecast: Record() for forecast in Forecast}
        self.memory_bytes = memory_bytes
        """What it may fetch into, in which there is room for everything else as well."""
        self._successors: Successors[Key] = Successors(
            _keys_max(memory_bytes, SUCCESSOR_KEY_BYTES, SUCCESSOR_KEYS_MIN, SUCCESSOR_KEYS_MAX)
        )
        self._hours: Hours[Key] = Hours(_keys_max(memory_bytes, 24 * HOUR_KEY_BYTES, HOUR_KEYS_MIN, HOUR_KEYS_MAX))
        self._budget = _Budget()
        self._under_way: dict[Key, Forecast] = {}
        # Not asked for yet; of each forecast apart, so that the oldest is the first that waits in vain.
        self._fetched: dict[Forecast, OrderedDict[Key, _Fetched]] = {forecast: OrderedDict() for forecast in Forecast}
        self._fetched_bytes = 0

    def seen(
        self, stream: Hashable, key: Key, now: float, hour: int, is_held: Callable[[Key], bool]
    ) -> list[tuple[Key, Forecast]]:
        """`stream` asks for `key`; what to fetch now, each with whose idea it was.

        `hour` is that of the day, and `is_held` says what memory has, of `key` before it was answered.
        """
        self._settle(key, now, is_held(key))
        self._successors.seen(stream, key)
        self._hours.seen(hour, key)
        if not self._has_room(now):
            return []
        named = [(likely, Forecast.SEQUENCE) for likely in self._successors.after(key) if not is_held(likely)]
        named += [(coming, Forecast.HOUR) for coming in self._hours.coming(is_held)]
        wanted: dict[Key, Forecast] = {}
        for one, forecast in named:  # both may name one
            if one not in wanted and self._is_wanted(one, forecast):
                wanted[one] = forecast
        return list(wanted.items())

    def begun(self, key: Key, forecast: Forecast) -> None:
        """It is being fetched."""
        self._under_way[key] = forecast

    def came(self, key: Key, nbytes: int, now: float) -> None:
        """It was fetched, and is in memory; `nbytes` 0: it was nowhere to be had."""
        forecast = self._under_way.pop(key)
        record = self.records[forecast]
        if not nbytes:
            record.absent += 1
            record.judge(was_used=False)
            return
        record.issued += 1
        self._budget.left -= nbytes
        waiting = self._fetched[forecast]
        waiting[key] = _Fetched(now + GIVEN_UP_AFTER_S[forecast], nbytes)
        self._fetched_bytes += nbytes
        if len(waiting) > WAITING_MAX:
            self._conclude(forecast, next(iter(waiting)), was_used=False)

    def _settle(self, key: Key, now: float, was_in_memory: bool) -> None:
        """Was this one fetched ahead, and has it lasted? And which have waited too long?"""
        for forecast, waiting in self._fetched.items():
            if key in waiting:
                self._conclude(forecast, key, was_used=was_in_memory)
            while waiting and (oldest := next(iter(waiting.items())))[1].until <= now:
                self._conclude(forecast, oldest[0], was_used=False)

    def _conclude(self, forecast: Forecast, key: Key, *, was_used: bool) -> None:
        self._fetched_bytes -= self._fetched[forecast].pop(key).nbytes
        self.records[forecast].outcome(was_used=was_used)

    def _has_room(self, now: float) -> bool:
        return (
            len(self._under_way) < UNDER_WAY_MAX
            and self._fetched_bytes < MEMORY_SHARE * self.memory_bytes
            and self._budget.has(now)
        )

    def _is_wanted(self, key: Key, forecast: Forecast) -> bool:
        if key in self._under_way or any(key in waiting for waiting in self._fetched.values()):
            return False
        record = self.records[forecast]
        if record.pays:
            return True
        record.skipped += 1
        return record.skipped % TRICKLE == 0


def _count(counts: dict[Key, int], key: Key, keys_max: int) -> None:
    """One more of `key`; where there is no room, one less of the least counted, until that makes room (Misra-Gries)."""
    if key in counts or len(counts) < keys_max:
        counts[key] = counts.get(key, 0) + 1
        return
    least = min(counts, key=counts.__getitem__)
    if counts[least] > 1:
        counts[least] -= 1
    else:
        del counts[least]
        counts[key] = 1


def _most_counted(counts: dict[Key, int], keys_max: int) -> dict[Key, int]:
    """Those with the highest counts, in that order."""
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:keys_max])


def _keys_max(memory_bytes: int, key_bytes: int, least: int, most: int) -> int:
    """How many keys a table may have beside so much memory for features."""
    return min(most, max(least, int(TABLE_SHARE * memory_bytes / key_bytes)))
