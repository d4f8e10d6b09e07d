from __future__ import annotations

from edgecache.node.refusals import LINES_MAX, PERIOD_S, Refusals


def test_each_host_and_reason_gets_a_line_a_minute_that_counts_the_rest() -> None:
    refusals = Refusals()
    assert refusals.line(0.0, "10.0.0.7", "no") == "no connection with 10.0.0.7: no"
    assert [refusals.line(1.0, "10.0.0.7", "no") for _ in range(5)] == [None] * 5
    assert refusals.line(2.0, "10.0.0.8", "no") == (
        "no connection with 10.0.0.8: no (and 5 refused since the last such line)"
    )
    assert refusals.line(PERIOD_S, "10.0.0.7", "no") == "no connection with 10.0.0.7: no"


def test_what_was_done_may_be_said_otherwise() -> None:
    assert Refusals().line(0.0, "10.0.0.7", "no", "closed a connection from") == "closed a connection from 10.0.0.7: no"


def test_a_scan_of_many_hosts_fills_neither_the_log_nor_memory() -> None:
    refusals = Refusals()
    lines = [refusals.line(0.0, f"10.0.{host >> 8}.{host & 255}", "no") for host in range(10_000)]
    assert sum(line is not None for line in lines) == LINES_MAX
    assert len(refusals._told) == LINES_MAX
    assert "and 9990 refused" in str(refusals.line(PERIOD_S, "10.0.0.1", "no"))
