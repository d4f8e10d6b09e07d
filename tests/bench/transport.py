"""Gets from a node, Redis and memcached that hold the same bytes, by the peer protocol and over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from edgecache.node.http_answers import Form, answer_parts

from . import caches, http, peer, servers
from .caches import Cache
from .features import SHAPES, payloads
from .report import Table, rate, seconds
from .rounds import Measured, race

IN_FLIGHT = (1, 8, 64)
BATCHES = (1, 32)
HEADINGS = ("in flight", "server", "requests/s", "× Redis", "GB/s", "p50", "p99", "server's processor")


async def over_peers(rounds: int, round_s: float) -> list[Table]:
    """One connection to each server, with all requests in flight on it: as one node asks another."""
    tables = []
    with contextlib.ExitStack() as running:
        at_redis = running.enter_context(servers.redis())
        at_memcached = running.enter_context(servers.memcached()) if servers.is_installed("memcached") else None
        at_node = running.enter_context(servers.node())
        with servers.on_core(servers.CLIENT_CORE):
            for name, shape in SHAPES.items():
                values = {made.key.packed: bytes(made.data) for made in payloads(shape)}
                entrants: dict[str, Sequence[Cache]] = {
                    "edgecache": [await peer.connected(at_node.address)],
                    "Redis": [await caches.connected(caches.Redis, at_redis.address)],
                }
                at = {"edgecache": at_node, "Redis": at_redis}
                if at_memcached is not None:
                    entrants["memcached"] = [await caches.connected(caches.Memcached, at_memcached.address)]
                    at["memcached"] = at_memcached
                for connections in entrants.values():
                    await _fill(connections[0], values)
                for batch in BATCHES:
                    title = f"{name}, {_size(values)} each, " + (f"batches of {batch}" if batch > 1 else "singly")
                    rows = []
                    for in_flight in IN_FLIGHT:
                        measured = await race(
                            entrants,
                            values,
                            in_flight=in_flight,
                            batch=batch,
                            rounds=rounds,
                            round_s=round_s,
                            servers=at,
                        )
                        rows += _rows(in_flight, batch, values, measured)
                    tables.append(Table(title, HEADINGS, rows))
                for connections in entrants.values():
                    connections[0].close()
    return tables


async def over_http(rounds: int, round_s: float) -> list[Table]:
    """As many connections to each server as there are requests in flight, since HTTP/1.1 answers one at a time."""
    tables = []
    with contextlib.ExitStack() as running:
        at_redis = running.enter_context(servers.redis())
        at_node = running.enter_context(servers.node())
        with servers.on_core(servers.CLIENT_CORE):
            for name, shape in SHAPES.items():
                held = payloads(shape)
                as_payload = {made.key.packed: bytes(made.data) for made in held}
                as_npy = {made.key.packed: b"".join(answer_parts(made, Form.NPY)) for made in held}
                seed = await http.connected(Form.PAYLOAD, at_node.http)
                for key, value in as_payload.items():
                    await seed.put(key, value)
                seed.close()
                for form, values in ((Form.PAYLOAD, as_payload), (Form.NPY, as_npy)):
                    for batch in BATCHES if form is Form.PAYLOAD else BATCHES[:1]:
                        title = f"{name}, `{form}`, {_size(values)} each, "
                        title += f"batches of {batch}" if batch > 1 else "singly"
                        rows = []
                        for in_flight in IN_FLIGHT:
                            entrants: dict[str, Sequence[Cache]] = {
                                "edgecache": [await http.connected(form, at_node.http) for _ in range(in_flight)],
                                "Redis": [
                                    await caches.connected(caches.Redis, at_redis.address) for _ in range(in_flight)
                                ],
                            }
                            at = {"edgecache": at_node, "Redis": at_redis}
                            for key, value in values.items():
                                await entrants["Redis"][0].put(key, value)
                            measured = await race(
                                entrants,
                                values,
                                in_flight=in_flight,
                                batch=batch,
                                rounds=rounds,
                                round_s=round_s,
                                servers=at,
                            )
                            rows += _rows(in_flight, batch, values, measured)
                            for connections in entrants.values():
                                for connection in connections:
                                    connection.close()
                        tables.append(Table(title, HEADINGS, rows))
    return tables


async def _fill(cache: Cache, values: Mapping[bytes, bytes]) -> None:
    """Put every value, and get it back."""
    for key, value in values.items():
        await cache.put(key, value)
    for key, value in values.items():
        assert bytes(await cache.get(key) or b"") == value
    keys = list(values)[:32]
    assert [bytes(got) for got in await cache.get_many(keys)] == [values[key] for key in keys]


def _rows(
    in_flight: int, batch: int, values: Mapping[bytes, bytes], measured: Mapping[str, Measured]
) -> list[Sequence[str]]:
    size = batch * len(next(iter(values.values())))
    return [
        (
            str(in_flight),
            name,
            rate(here.rate),
            f"{here.ratio(measured['Redis']):.2f}",
            f"{here.rate * size / 1e9:.2f}",
            seconds(here.latency_s(0.5)),
            seconds(here.latency_s(0.99)),
            seconds(here.server_s / len(here.latencies_s)),
        )
        for name, here in measured.items()
    ]


def _size(values: Mapping[bytes, bytes]) -> str:
    return f"{len(next(iter(values.values()))):,} bytes"
