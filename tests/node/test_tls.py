"""Real nodes on loopback sockets, with a cluster key and without, on the loops that a node runs on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest
from cryptography import x509
from edgecache.node import peer_protocol, tls
from edgecache.node.address_book import AddressBook
from edgecache.node.certificates import contexts
from edgecache.node.cluster_key import ClusterKey
from edgecache.node.identity import Identity
from edgecache.node.link import Address, Network
from edgecache.node.peer_protocol import WRITE_BYTES
from edgecache.node.service import Node
from edgecache.node.settings import Settings
from edgecache.node.stats import Stats
from edgecache.node.tcp import TcpNetwork
from edgecache.node.tls import TlsNetwork
from edgecache.protocol import payload as payloads
from edgecache.protocol.datagrams import Alive, News, encode_datagram, encode_rumor
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.messages import Get, Put
from edgecache.protocol.payload import Payload

from tests.node.test_peer_protocol import LOOPS, MB, Answering, NewLoop, _dial

KEY = ClusterKey.derived(b"the key of this cluster".ljust(32))
OTHER_KEY = ClusterKey.derived(b"the key of another cluster".ljust(32))
PATIENCE_S = 10.0

Story = Callable[[Node], Awaitable[None]]


def _tls(node: str, *keys: ClusterKey, stats: Stats | None = None) -> TlsNetwork:
    keys = keys or (KEY,)
    return TlsNetwork(contexts(keys, node), [key.datagrams for key in keys], stats or Stats())


async def _started(name: str, network: Network, stats: Stats, *seeds: Address) -> Node:
    settings = Settings(name, "home", 2, 64 * MB, ("127.0.0.1", 0), ("127.0.0.1", 0), "127.0.0.1", seeds)
    node = Node(
        settings,
        Identity(name, "55" * 16, None, 0),
        network=network,
        discovery=None,
        encoder=None,
        address_book=AddressBook(None),
        seed="0",
        stats=stats,
    )
    await node.start()
    return node


async def _with_key(
    name: str, *seeds: Address, keys: Sequence[ClusterKey] = (KEY,), certified: str | None = None
) -> Node:
    """A node called `name` whose certificate says `certified`."""
    stats = Stats()
    return await _started(name, _tls(certified or name, *keys, stats=stats), stats, *seeds)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def _run(new_loop: NewLoop, story: Story) -> None:
    """`story` with a node, which meets an honest peer after it whatever came before."""

    async def whole() -> None:
        node = await _with_key("node")
        honest = None
        try:
            await story(node)
            honest = await _with_key("honest", node.peer_address)
            await _until(lambda: "honest" in node._links.nodes() and "node" in honest._links.nodes())
        finally:
            await node.stop()
            if honest is not None:
                await honest.stop()
        await _until(lambda: not node._inbound.protocols)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(whole())


async def _raw(address: Address, said: bytes = b"", context: ssl.SSLContext | None = None) -> bytes:
    """What the node answers to somebody who says that, until it ends the connection."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection(*address, ssl=context)
        writer.write(said)
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    except OSError:
        return b""
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _stranger(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client that takes any server, and has no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


# -- who is let in -------------------------------------------------------------------------------------------------


@LOOPS
def test_nodes_with_one_key_are_members_of_each_other(new_loop: NewLoop) -> None:
    async def story(node: Node) -> None:
        assert node.stats.refused_handshakes == 0

    _run(new_loop, story)


@LOOPS
def test_much_in_both_directions_arrives_whole_over_tls(new_loop: NewLoop) -> None:
    async def story() -> None:
        answering = Answering()
        address = await answering.start(_tls("b"), ("127.0.0.1", 0))
        link = await _dial(_tls("a"), address)
        given = bytes(3 * MB)
        large = [asyncio.ensure_future(link.ask(Get(b"big"), 30)) for _ in range(4)]
        large += [asyncio.ensure_future(link.ask(Put(0), 30, (given,), len(given))) for _ in range(4)]
        small = [await link.ask(Get(b"key"), 30) for _ in range(20)]
        assert all(answered is not None and len(answered.blob) == 100 for answered in small)
        assert sorted(len(a.blob) for a in await asyncio.gather(*large) if a is not None) == 4 * [100] + 4 * [10 * MB]
        link.protocol.close()
        await link.lost.wait()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


@LOOPS
def test_a_peer_that_reads_nothing_costs_a_bounded_amount_of_memory_over_tls_too(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_protocol, "CLOSE_TIMEOUT_S", 0.05)

    async def story() -> None:
        answering = Answering(bytes_each=1 * MB)
        address = await answering.start(_tls("b"), ("127.0.0.1", 0))
        deaf, honest = await _dial(_tls("a"), address), await _dial(_tls("a"), address)
        assert deaf.protocol._transport is not None
        deaf.protocol._transport.pause_reading()
        asking = [asyncio.ensure_future(deaf.ask(Get(b"key"), 60)) for _ in range(100)]
        await _until(lambda: len(answering.asked) == 100)
        assert await honest.ask(Get(b"key"), PATIENCE_S) is not None
        end = answering.protocols[0]
        assert end._transport is not None
        assert end._transport.get_write_buffer_size() < 2 * WRITE_BYTES + MB
        end.close("enough")
        await _until(lambda: answering.lost == ["enough"])
        deaf.protocol.abort("the test is over")
        honest.protocol.abort("the test is over")
        assert await asyncio.gather(*asking) == [None] * 100

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


@LOOPS
@pytest.mark.parametrize("dialer", [(OTHER_KEY,), (OTHER_KEY, KEY), (KEY, OTHER_KEY), (KEY,)])
@pytest.mark.parametrize("answerer", [(OTHER_KEY,), (OTHER_KEY, KEY), (KEY,)])
def test_while_a_key_is_changed_nodes_meet_that_have_one_in_common(
    dialer: Sequence[ClusterKey], answerer: Sequence[ClusterKey], new_loop: NewLoop
) -> None:
    async def story() -> None:
        stats = Stats()
        address = await Answering().start(_tls("b", *answerer), ("127.0.0.1", 0))
        if any(key in answerer for key in dialer):
            link = await _dial(_tls("a", *dialer, stats=stats), address)
            assert await link.ask(Get(b"key"), PATIENCE_S) is not None
            link.protocol.abort("the test is over")
            assert stats.refused_handshakes == 0
        else:
            with pytest.raises(ConnectionRefusedError, match="its certificate was not made with this cluster key"):
                await _dial(_tls("a", *dialer, stats=stats), address)
            assert stats.refused_handshakes == 1

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


# -- and who is not ------------------------------------------------------------------------------------------------


@LOOPS
@pytest.mark.parametrize(
    ("said", "context", "reason"),
    [
        (b"\x10\x00\x00\x00\x01\x00plain TCP", None, "it does not speak TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", None, "it speaks HTTP"),
        (b"", _stranger(), "it has no certificate"),
        (b"", _stranger(ssl.TLSVersion.TLSv1_2), "it speaks TLS, but not 1.3"),
    ],
)
def test_who_has_no_certificate_gets_a_line_in_the_log_and_no_answer(
    said: bytes, context: ssl.SSLContext | None, reason: str, new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(node: Node) -> None:
        for attempt in range(1, 6):
            assert await _raw(node.peer_address, said, context) == b""
            await _until(lambda attempt=attempt: node.stats.refused_handshakes == attempt)  # type: ignore[misc]
        assert not node._inbound.protocols

    with caplog.at_level(logging.INFO):
        _run(new_loop, story)
    (line,) = [record.getMessage() for record in caplog.records if "no connection" in record.getMessage()]
    assert f"no connection with 127.0.0.1: {reason}" in line
    assert not any(record.exc_info for record in caplog.records)


@LOOPS
def test_a_certificate_of_another_key_is_refused_on_both_sides(
    new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(node: Node) -> None:
        other = await _with_key("other", node.peer_address, keys=[OTHER_KEY])
        await _until(lambda: bool(node.stats.refused_handshakes and other.stats.refused_handshakes))
        # A dialer that is sure of us, and shows us its own.
        credulous = contexts([OTHER_KEY], "other").clients[0][1]
        credulous.verify_mode = ssl.CERT_NONE
        before = node.stats.refused_handshakes
        assert await _raw(node.peer_address, b"hello", credulous) == b""
        await _until(lambda: node.stats.refused_handshakes > before)
        await other.stop()
        assert node._links.nodes() == other._links.nodes() == []

    with caplog.at_level(logging.INFO):
        _run(new_loop, story)
    assert "its certificate was not made with this cluster key" in caplog.text
    assert "it ended the TLS handshake: another cluster key" in caplog.text
    assert not any(record.exc_info for record in caplog.records)


@LOOPS
def test_a_node_without_a_key_and_one_with_it_do_not_meet(new_loop: NewLoop) -> None:
    async def story(node: Node) -> None:
        plain = await _started("plain", TcpNetwork(), Stats(), node.peer_address)
        await _until(lambda: node.stats.refused_handshakes > 0)
        keyed = await _with_key("keyed", plain.peer_address)
        await _until(lambda: keyed.stats.refused_handshakes > 0)
        assert node._links.nodes() == plain._links.nodes() == keyed._links.nodes() == []
        await keyed.stop()
        await plain.stop()

    _run(new_loop, story)


@LOOPS
def test_a_certificate_says_which_node_its_owner_is(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    async def story(node: Node) -> None:
        liar = await _with_key("victim", node.peer_address, certified="liar")
        await _until(lambda: node.stats.refused_handshakes > 0)
        assert (node._links.open, node.stats.protocol_errors) == (0, 0)
        await liar.stop()
        with pytest.raises(ConnectionError, match="node 'b': its certificate is another node's"):
            await _dial(_tls("a"), await Answering().start(_tls("liar"), ("127.0.0.1", 0)))

    with caplog.at_level(logging.INFO):
        _run(new_loop, story)
    assert "node 'victim': its certificate is another node's" in caplog.text


@LOOPS
def test_who_says_nothing_is_given_up_and_does_not_keep_others_out(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(tls, "HANDSHAKES_MAX", 4)

    async def story(node: Node) -> None:
        silent = [asyncio.ensure_future(_raw(node.peer_address)) for _ in range(20)]
        async with asyncio.timeout(PATIENCE_S / 2):
            assert await asyncio.gather(*silent) == 20 * [b""]
        assert node.stats.refused_handshakes == 20

    _run(new_loop, story)


# -- certificates --------------------------------------------------------------------------------------------------


def test_certificates_are_valid_whatever_the_clock_says() -> None:
    (ca,) = contexts([KEY], "node").clients[0][1].get_ca_certs()
    assert (ca["notBefore"], ca["notAfter"]) == ("Jan  1 00:00:00 1950 GMT", "Dec 31 23:59:59 9999 GMT")


@LOOPS
def test_a_members_certificate_cannot_make_others(new_loop: NewLoop) -> None:
    async def story() -> None:
        address = await Answering().start(_tls("b"), ("127.0.0.1", 0))
        _, writer = await asyncio.open_connection(*address, ssl=contexts([KEY], "a").clients[0][1], server_hostname="")
        peer = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        assert peer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        assert peer.not_valid_before_utc.year == 1950
        assert peer.not_valid_after_utc.year == 9999
        writer.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


# -- datagrams ------------------------------------------------------------------------------------------------------


@LOOPS
def test_datagrams_of_another_key_and_of_none_are_counted_and_not_read(
    new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(node: Node) -> None:
        rumor = encode_rumor(Alive("ghost", 0, "1", "ghost", "127.0.0.1", 1, "", 0, 1))
        for network in (TcpNetwork(), _tls("other", OTHER_KEY)):
            before = node.stats.refused_datagrams
            datagrams = await network.datagrams(lambda data, address: None, ("127.0.0.1", 0))
            for said in (b"x", encode_datagram(News(), [rumor]), bytes(1400)):
                datagrams.send(said, node.peer_address)
            await _until(lambda: node.stats.refused_datagrams == before + 3)  # noqa: B023
            datagrams.close()
        assert node.membership.all() == []

    with caplog.at_level(logging.WARNING):
        _run(new_loop, story)
    assert "it sends datagrams that were not sealed with this cluster key" in caplog.text


@LOOPS
def test_members_with_one_key_probe_each_other_by_datagrams(new_loop: NewLoop) -> None:
    async def whole() -> None:
        node = await _with_key("node")
        other = await _with_key("other", node.peer_address)
        await _until(lambda: node.membership.is_alive("other") and other.membership.is_alive("node"))
        other.store.put(made(b"something"))
        await _until(lambda: node.membership.in_ring()[0].used_bytes == other.store.used_bytes)
        assert node.stats.refused_datagrams == other.stats.refused_datagrams == 0
        await other.stop()
        await node.stop()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(whole())


def made(image: bytes) -> Payload:
    key = FeatureKey(digest_of(image), EncoderIdentity.declared("mine", "1"))
    return payloads.encode(np.ones((4, 8), np.float32), key)
