"""node/prefetch.py: what is named, what is learnt, and when it stops."""

from __future__ import annotations

import random
import tracemalloc

from edgecache.node import prefetch
from edgecache.node.prefetch import Forecast, Hours, Prefetcher, Successors

MEMORY = 1_000_000_000


def nothing(key: str) -> bool:
    return False


class Device:
    """A memory that forgets nothing but what a test drops, and fetches at once what it is told to."""

    def __init__(self, absent: bool = False) -> None:
        self.prefetcher: Prefetcher[str] = Prefetcher(MEMORY)
        self.held: set[str] = set()
        self.fetched: list[str] = []
        self.now = 0.0
        self._nbytes = 0 if absent else 1000

    def ask(self, key: str, stream: str = "camera", hour: int = 9, after_s: float = 1.0) -> bool:
        """One request; whether memory had it."""
        self.now += after_s
        had = key in self.held
        for named, forecast in self.prefetcher.seen(stream, key, self.now, hour, self.held.__contains__):
            self.prefetcher.begun(named, forecast)
            self.prefetcher.came(named, self._nbytes, self.now)
            self.fetched.append(named)
            if self._nbytes:
                self.held.add(named)
        self.held.add(key)
        return had


# -- by sequence ------------------------------------------------------------------------------------------------


def seen(successors: Successors[str], keys: str, stream: str = "a") -> None:
    for key in keys.split():
        successors.seen(stream, key)


def test_what_followed_twice_is_expected_to_follow() -> None:
    successors: Successors[str] = Successors()
    seen(successors, "1 2 3 9 8 7 1 2 3 6 5 4 1")
    assert successors.after("1") == ["2", "3"]
    seen(successors, "x y")
    assert successors.after("x") == [], "seen once"


def test_it_reaches_over_what_comes_between() -> None:
    successors: Successors[str] = Successors()
    for noise in "pqrs":
        seen(successors, f"1 {noise} 2 {noise}{noise} 3 {noise}x {noise}y {noise}z")
    successors.seen("a", "1")
    assert successors.after("1") == ["2"]


def test_streams_are_told_apart_and_learn_from_each_other() -> None:
    successors: Successors[str] = Successors()
    for key_a, key_b in zip("123451234512345", "abcdeabcdeabcde", strict=True):
        successors.seen("a", key_a)
        successors.seen("b", key_b)
    successors.seen("a", "1")
    assert set(successors.after("1")) == {"2", "3", "4"}
    successors.seen("new here", "a")
    assert "b" in successors.after("a")


def test_a_burst_of_the_same_is_one_event() -> None:
    successors: Successors[str] = Successors()
    for _ in range(3):
        seen(successors, "1 1 1 1 1 1 2 2 2 x y z")
    successors.seen("a", "1")
    assert successors.after("1")[0] == "2"


def test_the_table_is_bounded_and_forgets_what_is_no_longer_seen() -> None:
    successors: Successors[str] = Successors()
    for _ in range(3):
        seen(successors, "1 2")
    for number in range(prefetch.SUCCESSOR_KEYS_MAX):
        successors.seen(f"stream {number % 1000}", f"key {number}")
    assert len(successors) == prefetch.SUCCESSOR_KEYS_MAX
    assert successors.after("1") == []


def test_what_is_learnt_takes_a_share_of_memory() -> None:
    memory_bytes = 16 * 1024 * 1024
    small: Prefetcher[bytes] = Prefetcher(memory_bytes)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for hour in range(24):
        for number in range(600):
            key = b"%064d" % (600 * (hour // 2) + number)
            small.seen("a", key, 3600.0 * hour + number, hour, lambda key: True)
    grew = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.05 * memory_bytes < grew < 2 * prefetch.TABLE_SHARE * memory_bytes


def test_a_small_memory_remembers_fewer_successors() -> None:
    for memory_bytes, remembered in ((MEMORY, ["y"]), (1024 * 1024, [])):
        prefetcher: Prefetcher[str] = Prefetcher(memory_bytes)
        for number, key in enumerate(["x", "y", "a", "b", "c", "x", "y", "d", "e", "f", *map(str, range(1000)), "x"]):
            named = prefetcher.seen("a", key, float(number), 9, lambda key: False)
        assert [key for key, forecast in named if forecast is Forecast.SEQUENCE] == remembered


def test_a_habit_that_changes_is_learnt_anew() -> None:
    successors: Successors[str] = Successors()
    for _ in range(100):
        seen(successors, "1 2 a b c")
    for _ in range(100):
        seen(successors, "1 3 d e f")
    successors.seen("a", "1")
    assert set(successors.after("1")) == {"3", "d", "e"}


# -- by time of day ---------------------------------------------------------------------------------------------


def an_hour(hours: Hours[str], hour: int, keys: range, times: int = 2) -> None:
    for _ in range(times):
        for number in keys:
            hours.seen(hour, f"key {number}")


def coming(hours: Hours[str]) -> list[str]:
    named: list[str] = []
    while more := hours.coming(nothing):
        named += more
    return named


def test_an_hour_brings_what_it_brought_the_day_before_the_most_seen_first() -> None:
    hours: Hours[str] = Hours()
    an_hour(hours, 9, range(100))
    an_hour(hours, 9, range(60, 100), times=3)
    an_hour(hours, 10, range(200, 300))
    hours.seen(9, "something new")
    named = coming(hours)
    assert set(named) == {f"key {number}" for number in range(100)}
    assert set(named[:40]) == {f"key {number}" for number in range(60, 100)}


def test_an_hour_that_looks_like_another_one_brings_what_that_brought() -> None:
    hours: Hours[str] = Hours()
    an_hour(hours, 9, range(100))
    an_hour(hours, 10, range(200, 300))
    for number in range(0, 100, 4):
        hours.seen(14, f"key {number}")
    named = coming(hours)
    assert set(named) == {f"key {number}" for number in range(100)} - {f"key {number}" for number in range(0, 100, 4)}


def test_an_hour_like_no_other_brings_nothing() -> None:
    hours: Hours[str] = Hours()
    an_hour(hours, 9, range(100))
    an_hour(hours, 10, range(200, 300))
    an_hour(hours, 9, range(500, 540), times=1)
    assert coming(hours) == []


def test_what_is_known_of_an_hour_is_bounded() -> None:
    hours: Hours[str] = Hours()
    an_hour(hours, 9, range(3 * prefetch.HOUR_KEYS_MAX), times=1)
    hours.seen(10, "turn")
    hours.seen(9, "and back")
    assert len(coming(hours)) <= prefetch.HOUR_KEYS_MAX


# -- whether it pays --------------------------------------------------------------------------------------------


def test_a_tour_is_in_memory_before_it_is_asked_for() -> None:
    device = Device()
    for _ in range(3):
        for view in range(50):
            device.ask(f"view {view}")
    device.held.clear()
    hits = [device.ask(f"view {view}") for view in range(50)]
    assert sum(hits) >= 48
    assert device.prefetcher.records[Forecast.SEQUENCE].used >= 45


def test_what_is_held_or_under_way_is_not_named() -> None:
    device = Device()
    for _ in range(3):
        for view in range(10):
            device.ask(f"view {view}")
    assert device.fetched == []
    named = device.prefetcher.seen("camera", "view 0", 100.0, 9, nothing)
    assert named
    for key, forecast in named:
        device.prefetcher.begun(key, forecast)
    assert device.prefetcher.seen("camera", "view 0", 101.0, 9, nothing) == []


def test_what_both_forecasts_name_is_named_once() -> None:
    device = Device()
    for hour in (9, 10, 9):  # in the same hour of the next day, what follows is also what that hour brings
        device.held.clear()
        for _ in range(3):
            for view in range(10):
                named = device.prefetcher.seen("camera", f"view {view}", device.now, hour, nothing)
                assert len({key for key, _ in named}) == len(named)
                device.now += 60.0


def misled(device: Device, rounds: int) -> None:
    """Pairs that are always seen together, until what was fetched is taken away before it is asked for."""
    rng = random.Random(1)
    for _ in range(rounds):
        first = rng.randrange(100)
        device.held.clear()
        device.ask(f"first {first}", after_s=10)
        device.held.clear()
        device.ask(f"second {first}")


def test_a_forecast_that_does_not_pay_is_switched_off_and_tried_at_a_trickle() -> None:
    device = Device()
    misled(device, 3000)
    record = device.prefetcher.records[Forecast.SEQUENCE]
    assert not record.pays
    issued, skipped = record.issued, record.skipped
    misled(device, 1000)
    assert 0 < record.issued - issued <= (record.skipped - skipped) / prefetch.TRICKLE + 1


def test_one_that_pays_again_is_switched_on_again() -> None:
    device = Device()
    misled(device, 3000)
    for _ in range(3000):
        for view in range(20):
            device.held.discard(f"view {view}")
        for view in range(20):
            device.ask(f"view {view}")
        if device.prefetcher.records[Forecast.SEQUENCE].pays:
            break
    assert device.prefetcher.records[Forecast.SEQUENCE].pays


def test_what_nobody_has_is_in_vain_too() -> None:
    device = Device(absent=True)
    for _ in range(200):
        device.held.clear()
        for view in range(20):
            device.ask(f"view {view}")
    record = device.prefetcher.records[Forecast.SEQUENCE]
    assert record.issued == 0
    assert not record.pays


def test_the_link_and_memory_bound_what_is_fetched() -> None:
    prefetcher: Prefetcher[str] = Prefetcher(memory_bytes=100_000_000)
    for _ in range(4):
        for view in range(30):
            prefetcher.seen("camera", f"view {view}", 0.0, 9, lambda key: True)
    fetched = 0
    for second in range(60):
        for view in range(30):
            for key, forecast in prefetcher.seen("camera", f"view {view}", second, 9, nothing):
                prefetcher.begun(key, forecast)
                prefetcher.came(key, 1_000_000, second)
                fetched += 1_000_000
    assert fetched <= prefetch.BURST_BYTES + 60 * prefetch.LINK_BYTES_PER_S + 30 * 4 * 1_000_000
    small: Prefetcher[str] = Prefetcher(memory_bytes=1_000_000)
    for _ in range(4):
        for view in range(30):
            small.seen("camera", f"view {view}", 0.0, 9, lambda key: True)
    waiting = 0
    for view in range(0, 30, 5):
        for key, forecast in small.seen("camera", f"view {view}", 1.0, 9, nothing):
            small.begun(key, forecast)
            small.came(key, 300_000, 1.0)
            waiting += 300_000
    assert 0 < waiting <= 500_000 + prefetch.TOGETHER * 2 * 300_000
