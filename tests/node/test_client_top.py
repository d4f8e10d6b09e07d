"""Rates between two readings of every member's counters."""

from __future__ import annotations

from typing import Any

from edgecache.node.client_top import Reading, lines, members

HITS = {"memory": 0, "disk": 0, "peer": 0, "cloud": 0}


def stats(requests: int, hits: dict[str, int] | None = None, **others: int) -> dict[str, Any]:
    counters = {"requests": requests, "misses": 0, "encodes": 0, "evictions": 0, "bytes_in": 0, "bytes_out": 0}
    return counters | {"items": 7, "used_bytes": 50, "capacity_bytes": 100} | others | {"hits": HITS | (hits or {})}


def reading(at: float, **by_name: dict[str, Any] | None) -> Reading:
    told = [
        {"id": name, "name": name, "state": "alive", "http": f"http://{name}", "used_bytes": 1, "capacity_bytes": 2}
        for name in by_name
    ]
    return Reading(at, {"node": {"id": "b"}, "members": told}, by_name)


def test_rates_are_differences_over_time_and_the_asked_node_is_first() -> None:
    before = reading(10.0, a=stats(0), b=stats(100, {"memory": 50}))
    after = reading(12.0, a=stats(0), b=stats(300, {"memory": 200, "peer": 30}, misses=20, encodes=10, bytes_in=4096))
    first, second = members(before, after)
    assert (first["name"], second["name"]) == ("b", "a")
    assert (first["requests_per_s"], first["encodes_per_s"], first["bytes_in_per_s"]) == (100.0, 5.0, 2048.0)
    assert first["hits_per_s"] == {"memory": 75.0, "disk": 0.0, "peer": 15.0, "cloud": 0.0}
    assert first["hit_ratio"] == 0.9
    assert (first["items"], first["used_bytes"]) == (7, 50)
    assert second["hit_ratio"] is None


def test_what_members_tell_of_themselves_is_passed_on() -> None:
    ahead = {"sequence": {"used": 3, "wasted": 1}, "hour": {"used": 0, "wasted": 0}}
    told_now = stats(10, evictions=4) | {"prefetch": ahead, "utilisation": 0.98, "evictions_by_reason": {"capacity": 4}}
    [told] = members(reading(0.0, a=stats(0)), reading(2.0, a=told_now))
    assert (told["evictions_per_s"], told["prefetch_precision"], told["utilisation"]) == (2.0, 0.75, 0.98)
    assert told["evictions_by_reason"] == {"capacity": 4}
    assert "75" in lines([told])[1].split()


def test_who_did_not_answer_or_has_restarted_has_no_rates() -> None:
    silent = members(reading(0.0, a=stats(5)), reading(1.0, a=None))
    restarted = members(reading(0.0, a=stats(5)), reading(1.0, a=stats(2)))
    new = members(reading(0.0), reading(1.0, a=stats(2)))
    for (told,) in (silent, restarted, new):
        assert told["requests_per_s"] is None
        assert "-" in lines([told])[1]


def test_several_members_are_summed_in_the_last_line() -> None:
    before = reading(0.0, a=stats(0), b=stats(0), c=None)
    after = reading(1.0, a=stats(30, {"memory": 30}), b=stats(50, {"memory": 40}, misses=10), c=None)
    *_, total = lines(members(before, after))
    assert total.split()[:5] == ["2", "nodes", "80", "87.5", "70"]
    assert total.endswith("14     50 %")


def test_a_name_cannot_write_to_the_terminal() -> None:
    told = members(reading(0.0, a=stats(0)), reading(1.0, a=stats(0)))
    told[0]["name"] = "\x1b[2Jgone"
    assert "\x1b" not in "".join(lines(told))
