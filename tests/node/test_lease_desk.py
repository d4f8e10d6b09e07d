"""The owner's side of leases: who waits, and what wakes them. No network."""

from __future__ import annotations

import asyncio
import time

import pytest
from edgecache.node import lease_desk
from edgecache.node.lease import Granted, Leased
from edgecache.protocol import messages, payload
from edgecache.protocol.messages import Await, Claim, Done, Found, Missing, Release

from .test_responder import PEER, Room, features

LATE_MS = 20
LONG_S = 10.0


@pytest.fixture
def room() -> Room:
    return Room()


def claim(room: Room, key: bytes) -> messages.Message:
    return room.ask(Claim(key, 60)).message


async def test_a_claim_of_what_is_held_is_answered_with_it(room: Room) -> None:
    (held,) = room.holds(b"a")
    assert isinstance(room.ask(Claim(held.key.packed, 60)).message, Found)


async def test_the_first_claim_is_granted_and_another_hears_when_the_features_are_expected(room: Room) -> None:
    key = features(b"a").key.packed
    assert claim(room, key) == messages.Granted(120)
    assert claim(room, key) == messages.Granted(120)  # the same peer
    leased = room.node.desk.claim(key, "another", 0.06)
    assert isinstance(leased, Leased)
    assert leased.expected_s == pytest.approx(0.06, abs=0.02)


async def test_who_waits_gets_the_features_when_they_are_put(room: Room) -> None:
    given = features(b"a")
    claim(room, given.key.packed)
    waiting = asyncio.ensure_future(room.ask_later(Await(given.key.packed, 10_000)))
    await asyncio.sleep(0)
    assert room.ask(messages.Put(0), given.data).message == Done(1)
    answer = await asyncio.wait_for(waiting, LONG_S)
    assert isinstance(answer.message, Found)
    assert payload.parse(bytes(answer.blob[0]), given.key.packed).key == given.key


@pytest.mark.parametrize("how", ["release", "gone"])
async def test_who_waits_hears_at_once_that_nobody_is_at_it_any_more(room: Room, how: str) -> None:
    key = features(b"a").key.packed
    claim(room, key)
    waiting = asyncio.ensure_future(room.ask_later(Await(key, 10_000)))
    await asyncio.sleep(0)
    if how == "release":
        assert room.ask(Release(key)).message == Done(1)
    else:
        room.node.desk.gone(PEER.id)
    assert (await asyncio.wait_for(waiting, LONG_S)).message == Missing()
    assert isinstance(room.node.desk.claim(key, "another", 0.06), Granted)


async def test_who_does_not_hold_the_lease_cannot_give_it_back(room: Room) -> None:
    key = features(b"a").key.packed
    room.node.desk.claim(key, "another", 0.06)
    assert room.ask(Release(key)).message == Done(0)
    assert isinstance(room.node.desk.claim(key, "a third", 0.06), Leased)


async def test_who_waits_is_answered_in_time_whatever_happens(room: Room) -> None:
    key = features(b"a").key.packed
    claim(room, key)
    began = time.monotonic()
    assert (await room.ask_later(Await(key, LATE_MS))).message == Missing()
    assert time.monotonic() - began < LONG_S


async def test_nobody_waits_for_what_nobody_makes(room: Room) -> None:
    assert (await asyncio.wait_for(room.ask_later(Await(bytes(64), 10**6)), LONG_S)).message == Missing()


async def test_more_than_may_wait_do_not(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_desk, "WAITING_MAX", 1)
    key = features(b"a").key.packed
    claim(room, key)
    first = asyncio.ensure_future(room.ask_later(Await(key, 10_000)))
    await asyncio.sleep(0)
    assert (await asyncio.wait_for(room.ask_later(Await(key, 10**6)), LONG_S)).message == Missing()
    room.node.desk.gone(PEER.id)
    await first
