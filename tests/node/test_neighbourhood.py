"""Who is worth asking, as the answers teach it. No network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from edgecache.node.breaker import FAILURES_MAX, PAUSE_FIRST_S
from edgecache.node.cost import PEERS_MAX, Costs
from edgecache.node.neighbourhood import LATE_FACTOR, OTHERS_ASKED_MAX, Neighbourhood, Reply
from edgecache.node.ring import Ring

from .conftest import FakePeers

KEY = b"k" * 64


class Street:
    """A neighbourhood of three, whose clock and answers a test commands."""

    def __init__(self) -> None:
        self.now = 100.0
        self.peers = FakePeers()
        self.peers.held = {"a": {}, "b": {}, "c": {}}
        self.known = Neighbourhood(
            "me",
            peers=self.peers,
            ring=lambda: Ring(dict.fromkeys(["me", *self.peers.held], 1 << 30), copies=2),
            costs=Costs(),
            rng=random.Random(1),
            now=lambda: self.now,
        )

    def answers(self, answer: Callable[[], Awaitable[Reply | None]]) -> None:
        async def get(node: str, key: bytes, timeout_s: float) -> Reply | None:
            return await answer()

        self.peers.get = get  # type: ignore[method-assign]

    async def fail(self, node: str, times: int) -> None:
        self.answers(nothing)
        for _ in range(times):
            assert await self.known.get(node, KEY, 1.0) is None


async def nothing() -> Reply | None:
    return None


async def missing() -> Reply | None:
    return Reply(None)


async def never() -> Reply | None:
    return await asyncio.Future()


@pytest.fixture
def street() -> Street:
    return Street()


async def test_who_fails_again_and_again_has_a_pause_and_then_one_trial(street: Street) -> None:
    await street.fail("a", FAILURES_MAX - 1)
    assert street.known.may_ask("a")
    await street.fail("a", 1)
    assert not street.known.may_ask("a")
    assert "a" not in street.known.untold()
    assert street.known.by_cost(["a", "b"]) == ["b"]
    assert street.known.by_cost(["a"]) == ["a"]  # where there is nobody else
    street.now += 2 * PAUSE_FIRST_S
    assert street.known.may_ask("a")
    street.answers(never)
    trial = asyncio.ensure_future(street.known.get("a", KEY, 1.0))
    await asyncio.sleep(0)
    assert not street.known.may_ask("a")
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)
    assert street.known.may_ask("a")  # it told nothing: the next may try


async def test_not_here_is_an_answer(street: Street) -> None:
    await street.fail("a", FAILURES_MAX - 1)
    street.answers(missing)
    assert await street.known.get("a", KEY, 1.0) == Reply(None)
    await street.fail("a", FAILURES_MAX - 1)
    assert street.known.may_ask("a")


async def test_who_is_back_is_asked_at_once(street: Street) -> None:
    await street.fail("a", FAILURES_MAX)
    street.known.is_back("a")
    assert street.known.may_ask("a")


@pytest.mark.parametrize("is_late", [True, False])
async def test_who_is_given_up_has_failed_only_if_it_was_late(street: Street, is_late: bool) -> None:
    street.answers(never)
    for _ in range(FAILURES_MAX):
        asked = asyncio.ensure_future(street.known.get("a", KEY, 1.0))
        await asyncio.sleep(0)
        street.now += LATE_FACTOR * street.known.costs.fetch_s("a") * (1.01 if is_late else 0.9)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    assert street.known.may_ask("a") is not is_late
    assert (street.known.costs.failure_share(street.now, "a") > 0) is is_late


async def test_the_owner_is_the_first_on_the_ring_that_may_be_asked(street: Street) -> None:
    first, second = street.known.ring().holders(KEY)
    assert street.known.owner(KEY) == first
    if first != "me":
        await street.fail(first, FAILURES_MAX)
        assert street.known.owner(KEY) == second


def test_of_many_members_only_some_are_asked_whether_they_have_something(street: Street) -> None:
    street.peers.held = {f"{number}": {} for number in range(3 * OTHERS_ASKED_MAX)}
    assert len(street.known.untold(without=["0"])) == OTHERS_ASKED_MAX
    assert "0" not in street.known.untold(without=["0"])


async def test_what_is_known_of_peers_has_a_bound(street: Street) -> None:
    street.answers(nothing)
    for number in range(PEERS_MAX + 50):
        await street.known.get(f"{number}", KEY, 1.0)
    assert len(street.known._breakers) == PEERS_MAX
