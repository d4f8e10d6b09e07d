from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from edgecache.node import discovery
from edgecache.node.discovery import (
    SERVICE_TYPE,
    MdnsDiscovery,
    find_nodes,
    hear_nodes,
)
from edgecache.node.interfaces import InterfaceAddress
from edgecache.node.sightings import Announcement, Ignored, Sighting
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from tests.node.test_sightings import txt

LO = InterfaceAddress("lo", 1, "127.0.0.1", 8)
ETH = InterfaceAddress("eth0", 2, "192.0.2.20", 24)
ID, BOOT = "1" * 32, "b" * 32
DEADLINE_S = 8.0


def me(cluster: str = "home", name: str = "camera", **changed: int) -> Announcement:
    return replace(
        Announcement(secrets.token_hex(16), secrets.token_hex(16), name, cluster, 1, 7441, 7440),
        **changed,  # type: ignore[arg-type]
    )


class Seen:
    """The sightings that one node was told of."""

    def __init__(self) -> None:
        self.told: list[Sighting] = []
        self._more = asyncio.Event()

    def __call__(self, sighting: Sighting) -> None:
        self.told.append(sighting)
        self._more.set()

    async def until_ids(self, ids: set[str]) -> None:
        await self.until(lambda told: {sighting.id for sighting in told} == ids)

    async def until(self, enough: Callable[[list[Sighting]], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not enough(self.told):
                self._more.clear()
                await self._more.wait()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody when it is there
            await asyncio.sleep(0.005)


@asynccontextmanager
async def node(
    announcement: Announcement,
    present: Callable[[], list[InterfaceAddress]] = lambda: [LO],
    *,
    round_s: float = 60.0,
) -> AsyncIterator[tuple[MdnsDiscovery, Seen]]:
    seen = Seen()
    mdns = MdnsDiscovery("127.0.0.1", random.Random(1), present=present, poll_s=0.02, round_s=(round_s, round_s))
    await mdns.start(announcement, seen)
    try:
        yield mdns, seen
    finally:
        begin = asyncio.get_running_loop().time()
        await mdns.stop()
        assert asyncio.get_running_loop().time() - begin < 1.0


async def test_three_nodes_on_loopback_see_each_other() -> None:
    cluster = secrets.token_hex(4)
    a, b, c = (me(cluster, name) for name in "abc")
    async with node(a) as (_, at_a), node(b) as (_, at_b), node(c) as (_, at_c):
        for seen, others in ((at_a, {b.id, c.id}), (at_b, {a.id, c.id}), (at_c, {a.id, b.id})):
            await seen.until_ids(others)
        assert Sighting(b.id, b.boot, "b", ("127.0.0.1", 7441)) in at_a.told


async def test_a_node_that_is_still_there_is_told_again_each_round() -> None:
    cluster = secrets.token_hex(4)
    async with node(me(cluster), round_s=0.1) as (_, seen), node(me(cluster)):
        await seen.until(lambda told: len(told) >= 3)


async def test_a_node_with_a_new_boot_is_seen_at_once() -> None:
    cluster = secrets.token_hex(4)
    first = me(cluster)
    second = replace(first, boot="c" * 32)
    async with node(me(cluster)) as (_, seen):
        async with node(first):
            await seen.until_ids({first.id})
        async with node(second):
            await seen.until(lambda told: [sighting.boot for sighting in told] == [first.boot, second.boot])


async def test_an_interface_is_followed_as_it_comes_and_goes() -> None:
    cluster = secrets.token_hex(4)
    present: list[InterfaceAddress] = []
    async with node(me(cluster), lambda: list(present)) as (mdns, seen), node(me(cluster)):
        assert mdns.interfaces == []
        present.append(LO)
        await seen.until(lambda told: len(told) == 1)
        assert mdns.interfaces == [LO]
        present.clear()
        await eventually(lambda: mdns.interfaces == [])
        present.append(LO)
        await eventually(lambda: mdns.interfaces == [LO])
        present[:] = [replace(LO, index=2)]  # unplugged and plugged in again between two looks
        await eventually(lambda: mdns.interfaces == present)


async def test_where_mdns_is_refused_it_is_said_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = 3

    class Refusing(AsyncZeroconf):
        def __init__(self, **options: object) -> None:
            nonlocal refusals
            refusals -= 1
            if refusals >= 0:
                raise OSError(1, "Operation not permitted")
            super().__init__(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(discovery, "AsyncZeroconf", Refusing)
    cluster = secrets.token_hex(4)
    async with node(me(cluster)) as (_, seen):
        await eventually(lambda: refusals < 0)
        async with node(me(cluster)):
            await seen.until(lambda told: len(told) == 1)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "Operation not permitted" in warnings[0].getMessage()


async def test_a_node_may_stop_before_it_started_and_at_once_and_twice() -> None:
    mdns = MdnsDiscovery("127.0.0.1", random.Random(1))
    await mdns.stop()
    await mdns.start(me(secrets.token_hex(4)), Seen())
    await mdns.stop()
    await mdns.stop()


async def test_rogue_announcements_are_ignored_and_counted() -> None:
    cluster = secrets.token_hex(4)
    rogue = AsyncZeroconf(interfaces=["127.0.0.1"])
    records: list[tuple[bytes, int, str]] = [
        (txt(cluster=cluster, name=b"\xff\xff"), 7441, "127.0.0.1"),
        (b"\xff" * 900, 7441, "127.0.0.1"),
        (txt(cluster=cluster), 0, "127.0.0.1"),
        (txt(cluster=cluster), 7441, "224.0.0.1"),
        (txt(cluster=cluster + "x"), 7441, "127.0.0.1"),
    ]
    async with node(me(cluster)) as (mdns, seen):
        try:
            for number, (record, port, address) in enumerate(records):
                name = f"{cluster}-{number}"
                info = AsyncServiceInfo(
                    SERVICE_TYPE,
                    f"{name}.{SERVICE_TYPE}",
                    port=port,
                    properties=record,
                    server=f"{name}.local.",
                    parsed_addresses=[address],
                )
                await rogue.async_register_service(info, cooperating_responders=True)
            expected = {Ignored.MALFORMED: 3, Ignored.BAD_ADDRESS: 1, Ignored.OTHER_CLUSTER: 1}
            await eventually(lambda: all(mdns.ignored[why] >= count for why, count in expected.items()))
            async with node(me(cluster)) as (_, _):
                await seen.until(lambda told: len(told) == 1)
        finally:
            await rogue.async_close()


async def test_a_client_finds_the_nodes_that_serve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "present_addresses", lambda: [LO])
    cluster = secrets.token_hex(4)
    a, b = me(cluster, f"a-{cluster}"), me(cluster, f"b-{cluster}", http_port=0)
    async with node(a) as (_, at_a), node(b):
        await at_a.until(lambda told: len(told) == 1)
        # Each call ends soon after the first that it hears, which may be a node of somebody else's on this machine.
        async with asyncio.timeout(DEADLINE_S):
            while (a.name, "http://127.0.0.1:7440") not in (found := await find_nodes(DEADLINE_S)):
                pass
        assert b.name not in [name for name, _ in found]
        ids: set[str] = set()
        async with asyncio.timeout(DEADLINE_S):
            while not {a.id, b.id} <= ids:
                ids |= {claim.id for claim in await hear_nodes(DEADLINE_S, settle_s=0.3, present=[LO])}


async def test_where_there_is_no_interface_nothing_is_heard() -> None:
    assert await hear_nodes(0.01, present=[]) == []
