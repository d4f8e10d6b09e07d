from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web
from edgecache.node import doctor
from edgecache.node.doctor import (
    REFUSED,
    Check,
    ClusterSeen,
    MemberSeen,
    NodeSeen,
    ask_cluster,
    dial,
    examine,
    judge_agreement,
    judge_dial,
    judge_echo,
    judge_interfaces,
    judge_key,
    judge_members,
    judge_node,
    judge_others,
    judge_refused,
)
from edgecache.node.interfaces import InterfaceAddress
from edgecache.node.sightings import Claim

LO = InterfaceAddress("lo", 1, "127.0.0.1", 8)
ETH = InterfaceAddress("eth0", 2, "192.168.1.20", 24)
OWN = Claim("1" * 32, "a" * 32, "kitchen", "home", 1, ("192.168.1.20", 7441), 7440, ETH)
OTHER = Claim("2" * 32, "b" * 32, "garage", "home", 1, ("192.168.1.30", 7441), 7440, ETH)
ALONE = ClusterSeen(NodeSeen(OWN.id, "kitchen", "home"), (MemberSeen(OWN.id, "kitchen", "192.168.1.20:7441", "alive"),))
BOTH = ClusterSeen(ALONE.node, (*ALONE.members, MemberSeen(OTHER.id, "garage", "192.168.1.30:7441", "suspect")))


def test_without_a_node_only_the_network_is_judged() -> None:
    assert judge_node("http://here", "no answer within 3 s").ok is False
    assert judge_interfaces("", [LO], []) == judge_agreement("", [OTHER]) == judge_members("") == []


def test_a_node_that_answers_says_who_it_is() -> None:
    check = judge_node("http://here", ALONE)
    assert check.ok
    assert "kitchen" in check.detail


def test_a_node_that_only_loopback_hears_is_told_how_to_be_found() -> None:
    near = replace(OWN, address=("127.0.0.1", 7441), heard_on=LO)
    (check,) = judge_interfaces(OWN.id, [LO, ETH], [near])
    assert check.ok is None
    assert "--cluster-key FILE --listen 0.0.0.0" in check.hint
    (check,) = judge_interfaces(OWN.id, [LO, ETH], [near, OWN])
    assert check.ok
    (check,) = judge_interfaces(OWN.id, [LO, ETH], [OTHER])
    assert check.ok is False


def test_a_node_says_whether_a_cluster_key_is_in_use() -> None:
    def judged(peer: str, *, secured: bool) -> Check:
        (check,) = judge_key(ClusterSeen(NodeSeen(OWN.id, "kitchen", "home", peer, secured)))
        return check

    assert judged("192.168.1.20:7441", secured=True).ok
    assert judged("127.0.0.1:7441", secured=True).ok
    assert (judged("127.0.0.1:7441", secured=False).ok, judged("127.0.0.1:7441", secured=False).hint) == (None, "")
    assert judged("192.168.1.20:7441", secured=False).ok is None
    assert "edgecache key new FILE" in judged("192.168.1.20:7441", secured=False).hint
    assert judge_key("no answer") == []


def test_a_node_of_this_cluster_that_is_no_member_may_have_another_key() -> None:
    (check,) = judge_refused(ALONE, [OTHER])
    assert check.ok is False
    assert "the same --cluster-key FILE" in check.hint
    assert judge_refused(BOTH, [OTHER]) == judge_refused("no answer", [OTHER]) == []
    assert judge_refused(ALONE, [replace(OTHER, cluster="office")]) == []


async def test_a_node_on_another_machine_is_shown_the_token() -> None:
    async with node_that_answers(b'{"node": {"id": "1", "secured": true}}', token="token") as url:
        assert await ask_cluster(url, ["former", "token"]) == ClusterSeen(NodeSeen("1", secured=True))
        refused = await ask_cluster(url)
    assert isinstance(refused, str)
    assert "--cluster-key FILE" in judge_node(url, refused).hint


async def test_where_nobody_listens_is_said_in_words() -> None:
    assert await ask_cluster("http://127.0.0.1:1") == "Connection refused"


def test_multicast_that_is_not_heard_points_at_the_firewall() -> None:
    assert judge_echo(ETH, None).ok
    assert "5353" in judge_echo(ETH, "the question was sent and not heard").hint


def test_nobody_else_heard_is_a_fault_only_for_a_node_without_members() -> None:
    assert judge_others(ALONE, [OTHER]).ok
    assert judge_others(ALONE, []).ok is False
    assert judge_others(BOTH, []).ok is None  # found by a seed


@pytest.mark.parametrize(("seconds", "ok"), [(0.001, True), (0.4, None), (REFUSED, False), ("no answer", False)])
def test_a_peer_is_reached_slowly_reached_or_not(seconds: float | str, ok: bool | None) -> None:
    check = judge_dial(OTHER, seconds)
    assert check.ok is ok
    assert bool(check.hint) is (ok is not True)


def test_other_clusters_and_versions_are_named() -> None:
    cluster, version = judge_agreement(ALONE, [OWN, OTHER])
    assert (cluster.ok, version.ok) == (True, True)
    cluster, version = judge_agreement(ALONE, [OWN, replace(OTHER, cluster="office", protocol_version=2)])
    assert (cluster.ok, version.ok) == (None, False)
    assert "garage in office" in cluster.detail
    assert "garage speaks 2" in version.detail


def test_members_that_are_not_alive_are_named() -> None:
    alive, suspect = judge_members(BOTH)
    assert (alive.ok, suspect.ok) == (True, False)
    assert "suspect" in suspect.detail


def test_what_a_node_says_cannot_write_on_the_terminal() -> None:
    rogue = ClusterSeen(NodeSeen("1", "\x1b[2J", "a\nb"), (MemberSeen("2", "\r", "\x07", "\x1b"),))
    checks = [judge_node("http://here", rogue), *judge_agreement(rogue, []), *judge_members(rogue)]
    assert all((check.name + check.detail + check.hint).isprintable() for check in checks)


async def test_a_connection_is_timed() -> None:
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        assert isinstance(await dial(address), float)
    assert await dial(address) == REFUSED


@asynccontextmanager
async def node_that_answers(body: bytes, status: int = 200, token: str | None = None) -> AsyncIterator[str]:
    async def cluster(request: web.Request) -> web.Response:
        if token is not None and request.headers.get("Authorization") != f"Bearer {token}":
            return web.Response(status=401)
        return web.Response(body=body, status=status, content_type="application/json")

    application = web.Application()
    application.router.add_get("/v1/cluster", cluster)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}/"
    finally:
        await runner.cleanup()


ANSWER = json.dumps(
    {
        "node": {"id": OWN.id, "name": "kitchen", "cluster": "home", "used_bytes": 0},
        "members": [{"id": OWN.id, "name": "kitchen", "peer": "192.168.1.20:7441", "state": "alive", "boot": "a"}],
        "ring": {"owners": {}},
    }
).encode()


async def test_a_node_is_asked_for_its_cluster() -> None:
    async with node_that_answers(ANSWER) as url:
        assert await ask_cluster(url) == ALONE


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 200), (b"[]", 200), (b'{"members": 3}', 200), (ANSWER, 503), (b" " * 5_000_000, 200)]
)
async def test_an_answer_that_is_none_is_said(body: bytes, status: int) -> None:
    async with node_that_answers(body, status) as url:
        assert isinstance(await ask_cluster(url), str)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[", "http://127.0.0.1:99999"])
async def test_a_url_where_nobody_answers_is_said(url: str) -> None:
    assert isinstance(await ask_cluster(url), str)


async def test_all_is_examined_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LISTEN_S", 0.1)
    monkeypatch.setattr(doctor, "present_addresses", lambda: [LO])
    async with node_that_answers(ANSWER) as url:
        checks = await examine(url)
    assert [check.ok for check in checks if check.name in ("node answers", "multicast on lo")] == [True, True]
    assert "announced by mDNS" in [check.name for check in checks]
