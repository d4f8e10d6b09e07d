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
    TXT_BYTES_MAX,
    Announcement,
    Claim,
    Ignored,
    MdnsDiscovery,
    Sighting,
    Sightings,
    find_nodes,
    hear_nodes,
    read_claim,
)
from edgecache.node.interfaces import InterfaceAddress
from edgecache.protocol.errors import InvalidValue
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

LO = InterfaceAddress("lo", 1, "127.0.0.1", 8)
ETH = InterfaceAddress("eth0", 2, "192.0.2.20", 24)
ID, BOOT = "1" * 32, "b" * 32
DEADLINE_S = 8.0


def txt(**changed: str | bytes) -> bytes:
    """A TXT record as a node announces it, with some values changed."""
    values: dict[str, str | bytes] = {"id": ID, "boot": BOOT, "cluster": "home", "version": "1", "http": "7440"}
    values |= {"name": "camera"} | changed
    strings = [k.encode() + b"=" + (v.encode() if isinstance(v, str) else v) for k, v in values.items()]
    return b"".join(bytes([len(s)]) + s for s in strings)


def me(cluster: str = "home", name: str = "camera", **changed: int) -> Announcement:
    return replace(
        Announcement(secrets.token_hex(16), secrets.token_hex(16), name, cluster, 1, 7441, 7440),
        **changed,  # type: ignore[arg-type]
    )


def test_what_a_node_announces_is_read_as_its_claim() -> None:
    claim = read_claim(txt(), 7441, ["192.0.2.30"], ETH)
    assert claim == Claim(ID, BOOT, "camera", "home", 1, ("192.0.2.30", 7441), 7440, ETH)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\xff",
        b"\x05ab",
        txt(id=""),
        txt(id="1" * 31),
        txt(id="../../../../../../../../etc/pass"),
        txt(id="１" * 32),
        txt(boot="B" * 32),
        txt(version=""),
        txt(version="-1"),
        txt(version="9" * 100),
        txt(http="65536"),
        txt(http="٣"),
        txt(name=b"\xff\xfe"),
        txt(name="two\r\nlines"),
        txt(name="\x1b[2J"),
        txt(name="x" * 241),
        txt(cluster="a\0b"),
        txt() + b"\xff" + b"x" * 255 + b"\xff" + b"x" * 255 + b"\xff" + b"x" * 255 + b"\xff" + b"x" * 255,
    ],
)
def test_a_malformed_announcement_is_no_claim(record: bytes) -> None:
    assert read_claim(record, 7441, ["192.0.2.30"], ETH) is Ignored.MALFORMED


@pytest.mark.parametrize("cut", range(len(txt())))
def test_a_cut_announcement_is_no_claim_or_lacks_only_its_name(cut: int) -> None:
    claim = read_claim(txt()[:cut], 7441, ["192.0.2.30"], ETH)
    assert claim is Ignored.MALFORMED or (isinstance(claim, Claim) and "camera".startswith(claim.name))


@pytest.mark.parametrize("port", [None, 0, -1, 65536])
def test_an_absurd_port_is_no_claim(port: int | None) -> None:
    assert read_claim(txt(), port, ["192.0.2.30"], ETH) is Ignored.MALFORMED


def test_the_first_of_a_repeated_key_counts_and_unknown_keys_are_passed_over() -> None:
    record = b"\x06future" + b"\x04id=2"
    assert isinstance(read_claim(txt() + record, 7441, ["192.0.2.30"], ETH), Claim)
    assert len(txt() + record) <= TXT_BYTES_MAX


@pytest.mark.parametrize(
    "address",
    [
        "224.0.0.251",
        "255.255.255.255",
        "0.0.0.0",
        "240.0.0.1",
        "192.0.2.255",
        "192.0.2.0",
        "127.0.0.1",
        "8.8.8.8",
        "169.254.169.254",
    ],
)
def test_an_address_that_no_neighbour_can_have_is_not_dialled(address: str) -> None:
    assert read_claim(txt(), 7441, [address], ETH) is Ignored.BAD_ADDRESS
    assert read_claim(txt(), 7441, [], ETH) is Ignored.BAD_ADDRESS


@pytest.mark.parametrize("address", ["192.0.2.30", "10.1.2.3", "172.16.0.9", "192.168.7.7"])
def test_neighbours_are_on_the_same_or_on_a_private_network(address: str) -> None:
    claim = read_claim(txt(), 7441, ["8.8.8.8", address], ETH)
    assert isinstance(claim, Claim)
    assert claim.address == (address, 7441)


def test_on_loopback_only_loopback_is_dialled() -> None:
    assert isinstance(read_claim(txt(), 7441, ["127.0.0.1"], LO), Claim)
    assert read_claim(txt(), 7441, ["192.168.1.20"], LO) is Ignored.BAD_ADDRESS


def claim_of(node: Announcement, address: str = "192.0.2.30") -> Claim:
    return Claim(node.id, node.boot, node.name, node.cluster, 1, (address, node.peer_port), node.http_port, ETH)


def test_each_claim_is_told_once_a_round() -> None:
    sightings, other = Sightings(me()), me()
    sighting = Sighting(other.id, other.boot, other.name, ("192.0.2.30", 7441))
    assert sightings.judge(claim_of(other)) == sighting
    assert sightings.judge(claim_of(other)) is None
    assert sightings.judge(claim_of(other, "192.0.2.31")) == replace(sighting, address=("192.0.2.31", 7441))
    sightings.new_round()
    assert sightings.judge(claim_of(other)) == sighting


def test_a_node_does_not_see_itself_but_sees_its_clone() -> None:
    mine = me()
    sightings = Sightings(mine)
    assert sightings.judge(claim_of(mine)) is None
    assert sightings.judge(claim_of(replace(mine, boot="c" * 32))) is not None
    assert not sightings.ignored


def test_other_clusters_are_counted_and_not_dialled() -> None:
    sightings = Sightings(me("home"))
    assert sightings.judge(claim_of(me("office"))) is None
    assert sightings.ignored == {Ignored.OTHER_CLUSTER: 1}


def test_ten_thousand_announcements_earn_no_more_than_the_table_holds() -> None:
    sightings = Sightings(me(), capacity=256)
    told = [sightings.judge(claim_of(me())) for _ in range(10_000)]
    assert sum(sighting is not None for sighting in told) == 256
    assert sightings.ignored == {Ignored.TOO_MANY: 10_000 - 256}
    assert sightings.new_round()
    assert sightings.judge(claim_of(me())) is not None
    assert not sightings.new_round()


@pytest.mark.parametrize("name", ["x" * 241, "é" * 121, "two\nlines"])
def test_a_name_that_no_announcement_can_carry_is_refused_at_once(name: str) -> None:
    with pytest.raises(InvalidValue, match="node name"):
        me(name=name)
    with pytest.raises(InvalidValue, match="cluster name"):
        me(cluster=name)


# From here on: real mDNS, on loopback. Clusters have random names, since other nodes may run on this machine.


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
        found = await find_nodes(DEADLINE_S)
        assert (a.name, "http://127.0.0.1:7440") in found
        assert b.name not in [name for name, _ in found]
        claims = await hear_nodes(DEADLINE_S, settle_s=0.3, present=[LO])
        assert {a.id, b.id} <= {claim.id for claim in claims}


async def test_where_there_is_no_interface_nothing_is_heard() -> None:
    assert await hear_nodes(0.01, present=[]) == []
