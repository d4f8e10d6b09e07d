"""Real nodes above a directory as their cloud."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from edgecache.node.cluster_key import new_key

from tests.system.nodes import NODE, Nodes, RunningNode, edgecache, photo, until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    started = Nodes(tmp_path)
    yield started
    started.kill_all()


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


def objects(bucket: Path, kind: str = "features") -> list[Path]:
    return [path for path in (bucket / kind).rglob("*") if path.is_file()]


def start(nodes: Nodes, bucket: Path, *flags: str) -> RunningNode:
    return nodes.start("--cloud", f"file://{bucket}", "--no-mdns", *flags)


def encoded(node: RunningNode, image: bytes) -> str:
    answer = node.request("POST", "/v1/features", image, Content_Type="image/jpeg")
    assert answer.status == 200, answer.body
    return sha256(image).hexdigest()


def test_what_one_node_made_another_finds_in_the_cloud_when_the_first_is_gone(nodes: Nodes, bucket: Path) -> None:
    first = start(nodes, bucket)
    digest = encoded(first, photo(1))
    made = first.get(f"/v1/features/{digest}").array()
    until(lambda: len(objects(bucket)) == 1, "uploaded")
    first.kill()
    second = start(nodes, bucket)
    head = second.request("HEAD", f"/v1/features/{digest}")
    assert (head.status, head.headers["edgecache-source"]) == (200, "cloud")
    answer = second.get(f"/v1/features/{digest}")
    assert (answer.status, answer.headers["edgecache-source"]) == (200, "cloud")
    assert (answer.array() == made).all()
    assert second.get(f"/v1/features/{digest}").headers["edgecache-source"] == "memory"
    stats = second.get("/v1/stats").json()
    assert (stats["hits"]["cloud"], stats["encodes"]) == (1, 0)
    assert second.get("/readyz").json()["parts"]["cloud"] == "ok"
    assert 'edgecache_tier_hits_total{tier="cloud"} 1.0' in second.get("/metrics").body.decode()
    assert second.get(f"/v1/features/{'0' * 64}").status == 404
    second.kill()
    third = start(nodes, bucket, "--no-encoder")  # and has nobody to tell it of an encoder, but the cloud
    assert third.get(f"/v1/features/{digest}?source=local").status == 404
    answer = third.get(f"/v1/features/{digest}")
    assert (answer.status, answer.headers["edgecache-source"]) == (200, "cloud"), answer.body
    assert (answer.array() == made).all()
    assert third.get(f"/v1/features/{digest}?encoder=another").status == 404


def test_what_waits_to_be_uploaded_is_uploaded_before_a_node_leaves(nodes: Nodes, bucket: Path) -> None:
    node = start(nodes, bucket)
    for seed in range(5):
        encoded(node, photo(seed))
    assert node.terminate() == 0
    assert len(objects(bucket)) == 5


def test_what_is_removed_is_removed_from_the_cloud_too(nodes: Nodes, bucket: Path) -> None:
    node = start(nodes, bucket)
    digest, kept = encoded(node, photo(1)), encoded(node, photo(2))
    until(lambda: len(objects(bucket)) == 2, "uploaded")
    node.terminate()
    later = start(nodes, bucket)
    assert edgecache("rm", digest, url=later.url).returncode == 0  # though no device has it
    assert [path.name for path in objects(bucket)] == [kept]
    assert edgecache("rm", digest, url=later.url).returncode == 1
    assert later.get(f"/v1/features/{digest}").status == 404


def test_an_invalidated_version_goes_from_the_cloud(nodes: Nodes, bucket: Path) -> None:
    node = start(nodes, bucket)
    encoded(node, photo(1))
    until(lambda: len(objects(bucket)) == 1, "uploaded")
    assert edgecache("invalidate", "--encoder", "edgecache/tiny", "--version", "99", url=node.url).returncode == 0
    until(lambda: objects(bucket) == [], "removed")
    until(lambda: objects(bucket, "encoders") == [], "its description too")


def test_damaged_bytes_in_the_cloud_are_a_miss_counted_and_deleted(nodes: Nodes, bucket: Path) -> None:
    first = start(nodes, bucket)
    digest = encoded(first, photo(1))
    until(lambda: len(objects(bucket)) == 1, "uploaded")
    first.kill()
    (held,) = objects(bucket)
    held.write_bytes(held.read_bytes()[:-1] + b"?")
    second = start(nodes, bucket)
    assert second.get(f"/v1/features/{digest}").status == 404
    until(lambda: objects(bucket) == [], "deleted")
    assert second.get("/v1/stats").json()["tiers"]["cloud"]["corrupt"] == 1


def test_a_cloud_that_fails_is_shown_and_nothing_waits_for_it(nodes: Nodes, bucket: Path) -> None:
    node = start(nodes, bucket)
    shutil.rmtree(bucket)
    bucket.write_text("no directory any more")
    for seed in range(4):
        encoded(node, photo(seed))
    until(lambda: node.get("/readyz").json()["parts"]["cloud"] == "degraded", "degraded")
    assert node.get("/readyz").status == 200
    assert node.get(f"/v1/features/{'0' * 64}").status == 404
    bucket.unlink()
    until(lambda: len(objects(bucket)) >= 3, "uploaded when it is back")
    until(lambda: node.get("/readyz").json()["parts"]["cloud"] == "ok", "ok again")


@pytest.mark.parametrize(
    ("prelude", "url", "expected"),
    [
        ("", "http://host/dir", "expected s3://"),
        ("", "s3://key:secret@bucket", "credentials come from the environment"),
        ("import sys; sys.modules['obstore'] = None; ", "file:///tmp/x", "pip install 'edgecache[cloud]'"),
    ],
)
def test_a_wrong_cloud_is_one_line_and_exit_status_2(prelude: str, url: str, expected: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", prelude + NODE, "--cloud", url, "--listen", "127.0.0.1:0", "--no-encoder"]
    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("edgecache-node: ")
    assert expected in last
    assert "secret" not in done.stderr


def test_a_cloud_node_gives_an_empty_edge_its_features_back_and_is_not_missed_when_it_is_out(
    nodes: Nodes, tmp_path: Path
) -> None:
    key, cluster = str(tmp_path / "key"), ("--cluster", "home")
    new_key(Path(key))
    cloud = nodes.start("--role", "cloud", "--cluster-key", key, "--disk", "64MiB", *cluster)
    flags = ("--cloud", f"edgecache://{cloud.peer}", "--cluster-key", key, "--no-mdns", *cluster)
    edge = nodes.start(*flags)
    digests = [encoded(edge, photo(seed)) for seed in range(3)]
    made = edge.get(f"/v1/features/{digests[0]}").array()
    until(lambda: cloud.get("/v1/stats").json()["items"] == 3, "uploaded")
    edge.kill()

    empty = nodes.start(*flags)
    answer = empty.get(f"/v1/features/{digests[0]}")
    assert (answer.status, answer.headers["edgecache-source"]) == (200, "cloud")
    assert (answer.array() == made).all()
    assert cloud.get("/v1/cluster").json()["members"][1:] == []
    assert edgecache("rm", digests[1], url=empty.url).returncode == 0
    assert cloud.get("/v1/stats").json()["items"] == 2

    bare = nodes.start(*flags, "--no-encoder")  # nobody has told it of an encoder
    answer = bare.get(f"/v1/features/{digests[0]}")
    assert (answer.status, answer.headers["edgecache-source"]) == (200, "cloud"), answer.body
    assert (answer.array() == made).all()
    bare.kill()

    cloud.kill()
    answer = empty.request("POST", "/v1/features", photo(9))
    assert (answer.status, answer.headers["edgecache-source"]) == (200, "encoder")
    assert empty.get(f"/v1/features/{digests[0]}").headers["edgecache-source"] == "memory"
    assert empty.get(f"/v1/features/{digests[2]}").status == 404
    assert empty.terminate() == 0
