"""The calls about the node itself, and the descriptions that must stay true: metrics and OpenAPI."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from edgecache.node import http_problems
from edgecache.node.eviction.lru import LRU
from edgecache.node.http_api import http_app
from edgecache.node.http_query import WRITE_PARAMETERS
from edgecache.node.openapi import document
from prometheus_client.parser import text_string_to_metric_families

from .conftest import FakeNode, FakeTier, Serve

if TYPE_CHECKING:
    Client = Any  # aiohttp's TestClient

PHOTO = b"\xff\xd8\xff a photograph"


async def test_cluster_and_stats_are_the_nodes_own_words(client: Client, node: FakeNode) -> None:
    await client.post("/v1/features", data=PHOTO)
    assert await (await client.get("/v1/cluster")).json() == node.cluster()
    stats = await (await client.get("/v1/stats")).json()
    assert (stats["requests"], stats["encodes"], stats["items"]) == (1, 1, 1)
    assert set(stats["hits"]) == {"memory", "disk", "peer", "cloud"}
    assert stats["hit_ratio"] == 0
    await client.post("/v1/features", data=PHOTO)
    stats = await (await client.get("/v1/stats")).json()
    assert (stats["hit_ratio"], stats["hit_ratios"]["memory"], stats["hit_ratios"]["peer"]) == (0.5, 0.5, 0)
    assert 0 < stats["utilisation"] < 1
    assert stats["given_bytes"] == stats["capacity_bytes"] == node.store.memory.capacity_bytes


async def test_stats_and_metrics_tell_why_features_left_memory(client: Client, node: FakeNode) -> None:
    assert (await (await client.get("/v1/stats")).json())["hit_ratio"] is None
    await client.post("/v1/features", data=PHOTO)
    await client.delete(f"/v1/features/{sha256(PHOTO).hexdigest()}")
    reasons = (await (await client.get("/v1/stats")).json())["evictions_by_reason"]
    assert reasons == {"capacity": 0, "pressure": 0, "resized": 0, "version": 0, "forgotten": 1}
    text = await (await client.get("/metrics")).text()
    assert 'edgecache_evictions_by_reason_total{reason="forgotten"} 1.0' in text
    assert 'edgecache_hit_ratio_by_source{source="memory"} 0.0' in text
    assert "edgecache_hit_ratio 0.0" in text
    assert "# TYPE edgecache_utilisation gauge" in text


async def test_stats_and_metrics_tell_what_the_policy_tells(serve: Serve) -> None:
    class Told(LRU[bytes]):
        def told(self) -> dict[str, float]:
            return {"k": 3, "regret": 0.25}

    node = FakeNode()
    node.store.memory._policy = Told()
    client = await serve(node)
    assert (await (await client.get("/v1/stats")).json())["eviction"] == {"k": 3, "regret": 0.25}
    text = await (await client.get("/metrics")).text()
    assert "edgecache_eviction_k 3.0" in text
    assert "edgecache_eviction_regret 0.25" in text


async def test_openapi_names_what_stats_tell(client: Client) -> None:
    schema = document()["components"]["schemas"]["Stats"]["properties"]
    told = await (await client.get("/v1/stats")).json()
    assert schema.keys() <= told.keys()
    for name in ("hits", "hit_ratios", "evictions_by_reason"):
        assert schema[name]["properties"].keys() == told[name].keys()


async def test_a_node_says_whether_it_lives_and_serves(client: Client, node: FakeNode) -> None:
    assert (await client.get("/healthz")).status == 200
    ready = await client.get("/readyz")
    assert (ready.status, (await ready.json())["parts"]) == (200, {"memory": "ok"})
    assert (await ready.json())["status"] == "serving"
    node.serving = (True, {"disk": "degraded: it is full"})
    degraded = await client.get("/readyz")
    assert (degraded.status, (await degraded.json())["status"]) == (200, "degraded")
    node.serving = (False, {"disk": "degraded"})
    not_ready = await client.get("/readyz")
    assert (not_ready.status, not_ready.headers["Retry-After"]) == (503, "1")
    assert (await not_ready.json())["parts"] == {"disk": "degraded"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/", "/v1/stats", "/v1/nothing"])
async def test_every_answer_is_signed_and_never_sniffed(client: Client, path: str) -> None:
    headers = (await client.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"] == "edgecache"


async def test_metrics_tell_the_counters_as_they_stand(client: Client, node: FakeNode) -> None:
    await client.post("/v1/features", data=PHOTO)
    await client.post("/v1/features", data=PHOTO)
    node.other_members = [{"id": "2", "name": "gone", "state": "dead"}]
    answer = await client.get("/metrics")
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(await answer.text())
        for sample in family.samples
    }
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert samples[("edgecache_requests_total", ())] == 2
    assert samples[("edgecache_hits_total", (("source", "memory"),))] == 1
    assert samples[("edgecache_encodes_total", ())] == 1
    assert samples[("edgecache_items", ())] == 1
    assert samples[("edgecache_capacity_bytes", ())] == node.store.capacity_bytes
    assert samples[("edgecache_members", (("state", "alive"),))] == 1
    assert samples[("edgecache_members", (("state", "dead"),))] == 1
    posted = (("method", "POST"), ("route", "/v1/features"), ("status", "200"))
    assert samples[("edgecache_http_request_seconds_count", posted)] == 2


async def test_stats_and_metrics_tell_of_each_tier_there_is(client: Client, node: FakeNode, serve: Serve) -> None:
    assert (await (await client.get("/v1/stats")).json())["tiers"] == {}
    disk = FakeTier(capacity_bytes=1000)
    client = await serve(FakeNode(disk=disk))
    await client.post("/v1/features", data=PHOTO)
    told = (await (await client.get("/v1/stats")).json())["tiers"]["disk"]
    assert (told["items"], told["puts"], told["used_bytes"], told["capacity_bytes"]) == (1, 1, disk.used_bytes, 1000)
    text = await (await client.get("/metrics")).text()
    assert 'edgecache_tier_puts_total{tier="disk"} 1.0' in text
    assert 'edgecache_tier_capacity_bytes{tier="disk"} 1000.0' in text
    assert 'tier="cloud"' not in text


async def test_what_strangers_ask_for_adds_no_labels(client: Client) -> None:
    for number, method in enumerate(("PATCH", "PROPFIND", "MKCOL")):
        await client.request(method, f"/v1/nothing/{number}")
    text = await (await client.get("/metrics")).text()
    assert 'count{method="other",route="none",status="404"} 3.0' in text


async def test_openapi_describes_exactly_the_routes_there_are(client: Client, node: FakeNode) -> None:
    described = await (await client.get("/openapi.json")).json()
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in http_app(node).router.routes()
        if route.resource is not None
    }
    assert {
        (path, method) for path, item in described["paths"].items() for method in item if method != "parameters"
    } == routes
    assert described["openapi"].startswith("3.1.")


def test_openapi_refers_only_to_what_it_defines() -> None:
    described = document()
    references = set(re.findall(r"'\$ref': '#/components/(\w+)/(\w+)'", str(described)))
    assert references <= {(kind, name) for kind, parts in described["components"].items() for name in parts}
    assert set(described["components"]["parameters"]) == {"digest", "namespace", *WRITE_PARAMETERS}
    operations = [
        operation
        for item in described["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


async def test_the_dashboard_loads_nothing_from_elsewhere(client: Client) -> None:
    answer = await client.get("/")
    page = await answer.text()
    policy = answer.headers["Content-Security-Policy"]
    assert answer.content_type == "text/html"
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"https?://|//\w+\.\w|innerHTML|insertAdjacentHTML|document\.write", page)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/v1/features/" + "ab" * 32, "/v1/features/abababab\\u2026"),
        ("a\r\nb\x1b[31m\u202e", "a\\r\\nb\\x1b[31m\\u202e"),
        ("x" * 5000, "x" * 500),
    ],
)
def test_a_log_shows_eight_digits_of_a_digest_and_nothing_that_a_terminal_obeys(text: str, shown: str) -> None:
    assert http_problems.without_digests(text) == shown
