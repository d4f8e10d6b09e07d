"""What Prometheus is told: the node's counters as they stand when it asks, and how long HTTP requests took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

MEMBER_STATES = ("alive", "suspect", "left", "dead")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})

# From a hit in memory to a cold encoder.
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)

# These rise and fall; every other number of the node's counters only grows.
_GAUGES = {
    "items": "Features held in memory.",
    "used_bytes": "Bytes used of the memory store.",
    "capacity_bytes": "Bytes that the memory store may use now.",
    "given_bytes": "Bytes that it was given; it may use less while the device is short of memory.",
    "resident_bytes": "Bytes of memory that it takes.",
    "pinned_bytes": "Bytes of it that are evicted and still being sent, or not held yet and arriving.",
    "utilisation": "Share of its capacity that features take.",
    "hit_ratio": "Share of all questions that some tier answered.",
    "peer_connections": "Connections to and from peers.",
}
_COUNTERS = {
    "requests": "Questions for features, one for each key asked for.",
    "misses": "Questions that no tier could answer, whether then encoded or not.",
    "encodes": "Images that the local encoder was run on.",
    "encode_failures": "Images that it could not encode.",
    "converted": "Questions answered by old features, converted.",
    "puts": "Features stored on a user's word.",
    "moved": "Features brought to their new holders after members had changed.",
    "rejected_payloads": "Payloads from peers that failed a check.",
    "protocol_errors": "Peer connections closed for what the peer sent.",
    "refused_handshakes": "Peer connections closed at the handshake.",
    "refused_datagrams": "Datagrams that were not sealed with the cluster key.",
    "coalesced": "Questions that joined an equal one under way.",
    "evictions": "Features that have left memory, for whatever reason.",
    "bytes_in": "Payload bytes received from peers.",
    "bytes_out": "Payload bytes sent to peers.",
}

# Of the eviction policy, where it tells them.
_POLICY_GAUGES = {
    "k": "How many uses back an entry's worth is measured now.",
    "regret": "Share of the questions of late that memory would have answered by the best of the policies it follows.",
}

# Of each tier below memory, in the same way.
_TIER_GAUGES = {
    "items": "Features held.",
    "used_bytes": "Bytes that features take.",
    "file_bytes": "Bytes that files take, which are allocated whole.",
    "capacity_bytes": "Bytes that may be used.",
    "queued_bytes": "Bytes that wait in memory to be written.",
    "reads": "Reads under way or waiting for their place.",
    "queued": "Writes and removals that wait.",
    "degraded": "1 while it is not asked because it has failed too often of late.",
}
_TIER_COUNTERS = {
    "hits": "Reads that gave good features, which went to memory.",
    "misses": "Reads that found nothing.",
    "corrupt": "Reads that gave damaged bytes, which were removed.",
    "failures": "Reads that ended in an error.",
    "late": "Waits for a read that were given up.",
    "uploads": "Features written to the cloud.",
    "uploads_skipped": "Features that were there already, and were not sent again.",
    "uploads_dropped": "Features not written to the cloud: too many waited, or it failed too often.",
    "removals": "Features removed from the cloud.",
    "removals_dropped": "Removals from the cloud that were given up because too many waited.",
    "write_failures": "Writes and removals that failed, and were tried again if it was not their last time.",
    "breaker_opened": "Times that the cloud was found to be out or too slow.",
    "shed": "Reads not begun because too many waited.",
    "puts": "Features given to it when they came.",
    "demotions": "Features given to it when memory evicted them.",
    "evictions": "Features that it dropped for others.",
    "dropped": "Features that it was not given or did not take.",
    "bytes_in": "Payload bytes given to it.",
    "bytes_out": "Payload bytes read from it.",
}


# Of each forecast that fetches ahead.
_PREFETCH_COUNTERS = {
    "issued": "Features fetched ahead into memory.",
    "used": "Of these, asked for while memory had them.",
    "wasted": "Of these, not asked for in time.",
    "absent": "Features to be fetched ahead that nobody had.",
}


class NodeCollector(Collector):
    """Reads the node's counters and members anew at each scrape."""

    def __init__(self, counters: Callable[[], Mapping[str, Any]], cluster: Callable[[], Mapping[str, Any]]) -> None:
        self._counters = counters
        self._cluster = cluster

    def describe(self) -> list[Metric]:
        """Nothing, so that the registry does not collect when this is registered: the node may not run yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every counter of the node, by its own name."""
        counters = self._counters()
        hits = CounterMetricFamily(
            "edgecache_hits", "Questions answered, by the tier that had them.", labels=["source"]
        )
        for source, count in counters.get("hits", {}).items():
            hits.add_metric([str(source)], count)
        yield hits
        ratios = GaugeMetricFamily(
            "edgecache_hit_ratio_by_source", "Share of all questions that this tier answered.", labels=["source"]
        )
        for source, ratio in counters.get("hit_ratios", {}).items():
            if ratio is not None:
                ratios.add_metric([source], ratio)
        yield ratios
        evictions = CounterMetricFamily(
            "edgecache_evictions_by_reason", "Features that have left memory, by why they did.", labels=["reason"]
        )
        for reason, count in counters.get("evictions_by_reason", {}).items():
            evictions.add_metric([reason], count)
        yield evictions
        for name, help_text in _POLICY_GAUGES.items():
            if (value := counters.get("eviction", {}).get(name)) is not None:
                yield GaugeMetricFamily(f"edgecache_eviction_{name}", help_text, value)
        for name, value in counters.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if name in _GAUGES:
                yield GaugeMetricFamily(f"edgecache_{name}", _GAUGES[name], value)
            else:
                yield CounterMetricFamily(f"edgecache_{name}", _COUNTERS.get(name, name.replace("_", " ")), value)
        yield from _tiers(counters.get("tiers", {}))
        yield from _prefetch(counters.get("prefetch", {}))
        members = GaugeMetricFamily("edgecache_members", "Members of the cluster, this one too.", labels=["state"])
        states = Counter(member["state"] for member in self._cluster()["members"])
        for state in MEMBER_STATES:
            members.add_metric([state], states[state])
        yield members


def _prefetch(forecasts: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    for name, help_text in _PREFETCH_COUNTERS.items():
        counter = CounterMetricFamily(f"edgecache_prefetch_{name}", help_text, labels=["forecast"])
        for forecast, numbers in forecasts.items():
            counter.add_metric([forecast], numbers[name])
        yield counter
    precision = GaugeMetricFamily("edgecache_prefetch_precision", "Share that pays, of late.", labels=["forecast"])
    for forecast, numbers in forecasts.items():
        precision.add_metric([forecast], numbers["precision"])
    yield precision


def _tiers(tiers: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """The same numbers of each tier below memory, one metric a number, with the tier as its label."""
    for names, family in ((_TIER_GAUGES, GaugeMetricFamily), (_TIER_COUNTERS, CounterMetricFamily)):
        for name, help_text in names.items():
            metric = family(f"edgecache_tier_{name}", help_text, labels=["tier"])
            for tier, numbers in tiers.items():
                if name in numbers:
                    metric.add_metric([tier], numbers[name])
            yield metric


class Metrics:
    """The registry of one node, and the page that tells it."""

    def __init__(self, counters: Callable[[], Mapping[str, Any]], cluster: Callable[[], Mapping[str, Any]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(NodeCollector(counters, cluster))
        ProcessCollector(registry=self._registry)
        self._seconds = Histogram(
            "edgecache_http_request_seconds",
            "Time from a request's head to its answer.",
            ["method", "route", "status"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )

    async def page(self, request: web.Request) -> web.StreamResponse:
        """GET /metrics: Prometheus text, or OpenMetrics for who asks for it."""
        encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=encode(self._registry), headers={hdrs.CONTENT_TYPE: content_type})

    def middleware(self) -> Middleware:
        """Times every request, by route and never by path: labels must be few."""

        @web.middleware
        async def timed(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = time.perf_counter()
            response = await handler(request)
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else "none"
            method = request.method if request.method in METHODS else "other"
            self._seconds.labels(method, route, str(response.status)).observe(time.perf_counter() - started)
            return response

        return timed
