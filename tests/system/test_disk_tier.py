"""A real node with a disk: kill -9, a restart, and what is durable."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from .nodes import Nodes, RunningNode, until

FLAGS = ("--no-encoder", "--no-mdns", "--disk", "64MiB")


def npy(seed: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.random.default_rng(seed).standard_normal((16, 384), np.float32))
    return file.getvalue()


def url(number: int) -> str:
    return f"/v1/features/{hashlib.sha256(b'%d' % number).hexdigest()}?encoder=mine&version=1"


def put(node: RunningNode, number: int, *, durable: bool) -> int:
    return node.request("PUT", url(number) + ("&durable=true" if durable else ""), npy(number)).status


def test_what_was_put_durably_is_there_after_kill_9(nodes: Nodes, tmp_path: Path) -> None:
    flags = (*FLAGS, "--data-dir", str(tmp_path / "kept"))
    node = nodes.start(*flags)
    for number in range(20):
        assert put(node, number, durable=True) == 201
    before = [node.get(url(number)).body for number in range(20)]
    node.kill()
    again = nodes.start(*flags)
    after = [again.get(url(number)) for number in range(20)]
    assert [answer.body for answer in after] == before
    assert {answer.headers["edgecache-source"] for answer in after} <= {"disk", "memory"}
    assert again.get("/readyz").json()["parts"]["disk"] == "ok"
    assert again.get("/v1/stats").json()["tiers"]["disk"]["items"] == 20
    assert 'edgecache_tier_evictions_total{tier="disk"}' in again.get("/metrics").body.decode()


def test_an_invalidation_outlives_every_process_that_heard_it(nodes: Nodes, tmp_path: Path) -> None:
    flags = (*FLAGS, "--data-dir", str(tmp_path / "kept"))
    node = nodes.start(*flags)
    assert put(node, 1, durable=True) == 201
    told = node.request("POST", "/v1/invalidations", b'{"encoder": "mine", "version": "2"}')
    assert told.status == 200
    node.kill()
    again = nodes.start(*flags)
    until(lambda: again.get("/v1/stats").json()["tiers"]["disk"]["items"] == 0, "an empty disk")
    assert again.get(url(1)).status == 409, "another version is current"


def test_without_a_disk_nothing_is_durable_and_that_is_said(nodes: Nodes) -> None:
    node = nodes.start("--no-encoder", "--no-mdns")
    assert put(node, 1, durable=True) == 507
    assert put(node, 1, durable=False) == 201
    assert node.get("/readyz").json()["parts"]["disk"] == "none"


def test_a_data_directory_that_cannot_be_is_said_to_be_missing(nodes: Nodes) -> None:
    node = nodes.start(*FLAGS, "--data-dir", "/proc/nowhere")
    assert put(node, 1, durable=False) == 201
    ready = node.get("/readyz")
    assert (ready.status, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["parts"]["disk"] == "degraded: no data directory can be written"
    assert "WARNING identity: degraded: no data directory" in node.log.read_text()


def test_a_data_directory_whose_disk_part_is_a_symlink_is_not_followed(nodes: Nodes, tmp_path: Path) -> None:
    kept, outside = tmp_path / "kept", tmp_path / "outside"
    kept.mkdir()
    outside.mkdir()
    (kept / "features").symlink_to(outside)
    node = nodes.start(*FLAGS, "--data-dir", str(kept))
    assert put(node, 1, durable=True) == 507
    assert put(node, 1, durable=False) == 201
    assert "cannot be opened" in node.get("/readyz").json()["parts"]["disk"]
    assert list(outside.iterdir()) == []
