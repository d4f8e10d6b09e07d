"""The main job with real processes: real mDNS on loopback, real HTTP, the real encoder, and a real kill -9."""

from __future__ import annotations

import time
from hashlib import sha256
from pathlib import Path

import numpy as np

from tests.system.nodes import Nodes, edgecache, photo

PHOTOS = [photo(number) for number in range(6)]


def path_of(image: bytes) -> str:
    return f"/v1/features/{sha256(image).hexdigest()}"


def test_features_encoded_on_one_node_are_answered_by_the_others_and_survive_its_kill(nodes: Nodes) -> None:
    first, *others = nodes.start_cluster(3)
    made = [first.request("POST", "/v1/features", image) for image in PHOTOS]
    assert [answer.status for answer in made] == [200] * len(PHOTOS)
    assert {answer.headers["edgecache-source"] for answer in made} == {"encoder"}
    assert {answer.array().shape for answer in made} == {(64, 192)}

    for node in others:
        for image, answer in zip(PHOTOS, made, strict=True):
            found = node.get(path_of(image))
            assert found.status == 200
            assert found.headers["edgecache-source"] in ("memory", "peer")
            assert found.body == answer.body

    more = [photo(number) for number in range(100, 106)]
    acknowledged = [first.request("POST", "/v1/features", image) for image in more]
    first.kill()
    for node in others:
        for image, answer in zip(more, acknowledged, strict=True):
            asked_at = time.monotonic()
            assert node.get(path_of(image)).body == answer.body
            assert time.monotonic() - asked_at < 1.0


def test_a_node_without_torch_serves_stores_and_shares_what_a_users_own_encoder_made(
    nodes: Nodes, tmp_path: Path
) -> None:
    # An installation without extras: whoever imports one of these finds nothing.
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(
        "import sys\nfor name in ('torch', 'PIL', 'transformers'):\n    sys.modules[name] = None\n"
    )
    bare = {"PYTHONPATH": str(shim)}
    first = nodes.start("--no-encoder", environment=bare)
    second = nodes.start(environment=bare)  # without the flag, too: it finds no torch, and says so
    first.until_members(2)
    array = np.random.default_rng(1).standard_normal((5, 16), dtype=np.float32)
    npy = tmp_path / "mine.npy"
    np.save(npy, array)
    stored = first.request("PUT", path_of(PHOTOS[0]) + "?encoder=mine&version=7", npy.read_bytes())
    assert stored.status == 201, stored.body
    found = second.get(path_of(PHOTOS[0]) + "?encoder=mine&version=7")
    assert found.status == 200
    assert found.headers["edgecache-encoder"] == "mine@7"
    assert float(found.headers["edgecache-fidelity"]) > 0.999
    np.testing.assert_allclose(found.array(), array, atol=0.02)
    assert second.request("POST", "/v1/features", PHOTOS[1]).status in (404, 503)
    assert "not installed" in second.log.read_text()


def test_who_is_told_to_end_hands_over_and_exits_with_0(nodes: Nodes) -> None:
    first, second = nodes.start_cluster(2, "--replicas", "1")
    made = [first.request("POST", "/v1/features", image) for image in PHOTOS]
    assert first.terminate() == 0
    for image, answer in zip(PHOTOS, made, strict=True):
        found = second.get(path_of(image))
        assert (found.status, found.headers["edgecache-source"]) == (200, "memory")
        assert found.body == answer.body
    states = {member["state"] for member in second.get("/v1/cluster").json()["members"]}
    assert states == {"alive", "left"}


def test_the_command_line_tells_the_same_story(nodes: Nodes, tmp_path: Path) -> None:
    first, second = nodes.start_cluster(2)
    file = tmp_path / "photo.jpg"
    file.write_bytes(PHOTOS[0])
    digest = sha256(PHOTOS[0]).hexdigest()
    put = edgecache("put", str(file), url=first.url)
    assert put.returncode == 0, put.stderr
    assert digest in put.stdout
    saved = tmp_path / "features.npy"
    assert edgecache("get", digest, "-o", str(saved), url=second.url).returncode == 0
    assert np.load(saved).shape == (64, 192)
    assert edgecache("has", digest, url=second.url).returncode == 0
    for command in ("status", "peers"):
        shown = edgecache(command, url=first.url)
        assert shown.returncode == 0
    assert "n2" in edgecache("peers", url=first.url).stdout
    assert edgecache("rm", digest, url=second.url).returncode == 0
    assert edgecache("has", digest, url=first.url).returncode == 1
    assert edgecache("get", digest, url=first.url).returncode == 1
    first.kill()
    second.kill()
    nobody = edgecache("get", digest, url=first.url)
    assert nobody.returncode == 3
    assert len(nobody.stderr.splitlines()) == 1
