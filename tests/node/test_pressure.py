"""node/pressure.py: the capacity that there is memory for."""

from __future__ import annotations

import random
from itertools import pairwise

from edgecache.node.pressure import BATCH, LEAST, READ_EVERY_NEAR_S, READ_EVERY_S, Bound, Pressure, Reading

GIB = 1 << 30
GIVEN = GIB


class Device:
    """A device of `total_bytes`; what the store takes and what others take is used."""

    def __init__(self, total_bytes: int = 4 * GIB, given_bytes: int = GIVEN) -> None:
        self.pressure = Pressure(given_bytes)
        self.total_bytes = total_bytes
        self.others_bytes = GIB
        self.resident_bytes = 0
        self.stalled_share = 0.0
        self.now = 0.0

    @property
    def used_share(self) -> float:
        return (self.others_bytes + self.resident_bytes) / self.total_bytes

    def read(self, *, fills: bool = True) -> int:
        """One reading, after which the store is within its capacity, and full where it `fills`."""
        bound = Bound(self.total_bytes, self.others_bytes + self.resident_bytes)
        capacity_bytes = self.pressure.read(self.now, Reading([bound], self.stalled_share), self.resident_bytes)
        self.resident_bytes = capacity_bytes if fills else min(self.resident_bytes, capacity_bytes)
        self.now += self.pressure.read_again_in_s
        return capacity_bytes


def test_where_there_is_enough_the_store_has_what_it_was_given() -> None:
    device = Device()
    assert [device.read() for _ in range(5)] == [GIVEN] * 5
    assert device.pressure.read_again_in_s == READ_EVERY_S


def test_where_nothing_can_be_read_the_store_has_what_it_was_given() -> None:
    assert Pressure(GIVEN).read(0.0, Reading([]), 0) == GIVEN


def test_what_others_need_is_given_up_in_batches_and_had_back_when_they_go() -> None:
    device = Device()
    device.read()
    device.others_bytes = int(3.4 * GIB)  # with ours 110 %: the kernel would be at work by now
    capacities = [device.read() for _ in range(20)]
    assert all(before - after <= BATCH * GIVEN + 1 for before, after in pairwise([GIVEN, *capacities]))
    assert 0.89 < device.used_share <= 0.90
    assert device.pressure.read_again_in_s == READ_EVERY_NEAR_S
    device.others_bytes = 2 * GIB
    grown = [device.read() for _ in range(40)]
    assert all(0 <= after - before <= 0.06 * GIVEN for before, after in pairwise(grown))
    assert grown[-1] == GIVEN


def test_between_the_marks_nothing_changes() -> None:
    device = Device()
    device.read()
    device.others_bytes = int(3.0 * GIB)
    for _ in range(20):
        device.read()
    settled = device.read()
    assert settled < GIVEN
    for others in (2.65, 3.0, 3.15, 2.7):  # from 81 to 94 % with ours
        device.others_bytes = int(others * GIB)
        assert device.read() == settled


def test_a_store_given_more_than_its_cgroup_never_gets_there() -> None:
    device = Device(total_bytes=GIB // 2)
    device.others_bytes = GIB // 10
    for _ in range(100):
        device.read()
        assert device.used_share <= 0.951
    assert device.used_share > 0.8


def test_the_tightest_bound_counts() -> None:
    roomy, tight = Bound(64 * GIB, GIB), Bound(GIB, int(0.97 * GIB))
    for bounds in ([roomy, tight], [tight, roomy]):
        assert Pressure(GIVEN).read(0.0, Reading(bounds), GIVEN // 2) < GIVEN // 2


def test_a_tenth_is_left_at_the_worst() -> None:
    device = Device()
    device.others_bytes = 4 * GIB
    for _ in range(50):
        device.read()
    assert device.resident_bytes == int(LEAST * GIVEN)


def test_others_that_take_memory_cost_a_store_that_is_not_full_nothing_but_its_promise() -> None:
    device = Device()
    device.resident_bytes = GIB // 4
    device.others_bytes = int(3.5 * GIB)  # with ours 93.75 %
    assert device.read(fills=False) == GIB // 4
    assert device.resident_bytes == GIB // 4


def test_stalls_make_it_shrink_a_batch_at_a_time_where_memory_is_near_its_end() -> None:
    device = Device()
    device.read()
    device.others_bytes = int(2.4 * GIB)  # with ours 85 %
    device.stalled_share = 0.3
    first = device.read()
    assert first == GIVEN - int(BATCH * GIVEN)
    while device.now < 9.0:
        assert device.read() == first  # the same stall, told again
    while device.now < 14.0:
        second = device.read()
    assert second == GIVEN - 2 * int(BATCH * GIVEN)


def test_stalls_of_somebody_else_do_not() -> None:
    device = Device()
    device.stalled_share = 0.9
    assert device.read() == GIVEN


def test_it_does_not_grow_while_anybody_waits_for_memory() -> None:
    device = Device()
    device.read()
    device.others_bytes = int(3.4 * GIB)
    for _ in range(20):
        shrunk = device.read()
    device.others_bytes, device.stalled_share = GIB, 0.05
    assert device.read() == shrunk
    device.stalled_share = 0.0
    assert device.read() > shrunk


def test_what_the_user_gives_holds_at_once() -> None:
    device = Device()
    device.read()
    assert device.pressure.give(2 * GIB) == 2 * GIB
    assert device.read() == 2 * GIB
    assert device.pressure.give(GIB // 8) == GIB // 8
    assert device.read() == GIB // 8


def test_whatever_others_do_it_stays_between_its_least_and_what_it_was_given() -> None:
    rng = random.Random(1)
    device = Device()
    for _ in range(5000):
        device.others_bytes = min(4 * GIB, max(0, device.others_bytes + rng.randint(-GIB // 8, GIB // 8)))
        device.stalled_share = rng.choice([0.0, 0.0, 0.0, 0.02, 0.5])
        before = device.resident_bytes
        short = device.used_share > 0.95
        capacity_bytes = device.read(fills=rng.random() < 0.5)
        assert int(LEAST * GIVEN) <= capacity_bytes <= GIVEN
        if short and before > int(LEAST * GIVEN):
            assert device.resident_bytes < before
