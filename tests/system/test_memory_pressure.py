"""A real node whose memory becomes less: by its user's word, and by the kernel's."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey

from tests.system.nodes import Nodes, RunningNode, until

MIB = 1 << 20
IMAGE = "application/vnd.edgecache.payload"
VALUES = np.random.default_rng(0).standard_normal((196, 768), np.float32)


def put_mib(node: RunningNode, mib: int, first: int = 0) -> None:
    """So many MiB of features."""
    encoder = EncoderIdentity.declared("mine", "1")
    for image in range(first, first + mib * MIB // 151_504):
        digest = sha256(b"%d" % image).digest()
        body = bytes(payloads.encode(VALUES, FeatureKey(digest, encoder)).data)
        path = f"/v1/features/{digest.hex()}?encoder=mine&version=1"
        assert node.request("PUT", path, body, Content_Type=IMAGE).status == 201


def capacity(node: RunningNode) -> int:
    stats = node.get("/v1/stats").json()
    assert stats["used_bytes"] <= stats["capacity_bytes"]
    return int(stats["capacity_bytes"])


def test_a_hangup_has_the_memory_read_again(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('memory = "8MiB"\nreplicas = 1\n')
    node = nodes.start("--config", str(file), "--no-encoder", "--no-mdns", without=("--memory",))
    put_mib(node, 10)
    assert capacity(node) == 8 * MIB
    file.write_text('memory = "4MiB"\nreplicas = 2\n')
    node.process.send_signal(signal.SIGHUP)
    until(lambda: capacity(node) == 4 * MIB and "of what has changed beside it" in node.log.read_text(), "4 MiB")
    file.write_text('memory = "4XB"\n')
    node.process.send_signal(signal.SIGHUP)
    until(lambda: "nothing is changed" in node.log.read_text(), "a complaint")
    file.write_text('memory = "1GiB"\n')
    node.process.send_signal(signal.SIGHUP)
    until(lambda: f"memory of {1024 * MIB} bytes: between 1250 and {16 * MIB}" in node.log.read_text(), "a complaint")
    assert capacity(node) == 4 * MIB
    assert node.terminate() == 0


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup with a memory controller, of either version, that this test may change; skipped where there is none."""
    for parent in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        directory = parent / f"edgecache-test-{os.getpid()}"
        try:
            directory.mkdir()
        except OSError:
            continue
        if (directory / "memory.limit_in_bytes").exists() or (directory / "memory.max").exists():
            yield directory
            with contextlib.suppress(OSError):
                directory.rmdir()
            return
        directory.rmdir()
    pytest.skip("no cgroup may be made here")


def test_a_node_gives_back_what_its_cgroup_has_no_room_for(nodes: Nodes, cgroup: Path) -> None:
    limit = next(path for name in ("memory.limit_in_bytes", "memory.max") if (path := cgroup / name).exists())
    limit.write_text(str(1024 * MIB))
    node = nodes.start(
        "--memory", "64MiB", "--no-encoder", "--no-mdns",
        program=f"open({str(cgroup / 'cgroup.procs')!r}, 'w').write('0'); from edgecache.node.cli import node_main; "
        "raise SystemExit(node_main())",
    )  # fmt: skip
    put_mib(node, 60)
    assert capacity(node) == 64 * MIB
    before = charged_bytes(cgroup)
    assert before > 55 * MIB
    limit_bytes = int(before / 0.97)
    limit.write_text(str(limit_bytes))
    until(lambda: charged_bytes(cgroup) < 0.91 * limit_bytes, "memory given back")
    assert capacity(node) < 60 * MIB
    assert node.get("/v1/stats").json()["evictions_by_reason"]["pressure"] > 10
    put_mib(node, 30, first=10_000)  # and the kernel has no reason to kill it
    assert charged_bytes(cgroup) < 0.96 * limit_bytes
    limit.write_text(str(1024 * MIB))
    until(lambda: capacity(node) == 64 * MIB, "its memory back")


def charged_bytes(cgroup: Path) -> int:
    """Bytes of memory that the cgroup has, without page cache; what a process had before it came is not among them."""
    numbers = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    return int(numbers["total_rss"] if "total_rss" in numbers else numbers["anon"])
