"""node/sightings.py: what is claimed on the network, and what that is worth."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest
from edgecache.node.interfaces import InterfaceAddress
from edgecache.node.sightings import TXT_BYTES_MAX, Announcement, Claim, Ignored, Sighting, Sightings, read_claim
from edgecache.protocol.errors import InvalidValue

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
