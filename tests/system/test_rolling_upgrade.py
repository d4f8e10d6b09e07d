"""Five real nodes get a new version of their encoder, one after another, while they are asked all the time."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from edgecache.protocol import conversion

from tests.system import versioned
from tests.system.nodes import Nodes, RunningNode, edgecache, photo, until

PHOTOS = [photo(number) for number in range(12)]
ASKERS = 2
ROOT = Path(__file__).parents[2]  # where the workers find the encoder


class Load:
    """Programs that ask any node, and the next where nothing listens; what they got that they should not have."""

    def __init__(self, nodes: list[RunningNode], versions: list[str]) -> None:
        self.nodes, self.versions = nodes, versions
        self.wrong: list[str] = []
        self.answers: Counter[str] = Counter()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(random.Random(seed),)) for seed in range(ASKERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, rng: random.Random) -> None:
        while not self._is_over.wait(0.04):
            index, image, by_hash = rng.randrange(len(self.nodes)), rng.choice(PHOTOS), rng.random() < 0.3
            node, version = self.nodes[index], self.versions[index]
            try:
                if by_hash:
                    answer = node.get(f"/v1/features/{sha256(image).hexdigest()}")
                else:
                    answer = node.request("POST", "/v1/features", image)
            except ConnectionRefusedError:
                self.answers["refused"] += 1  # it is being upgraded
                continue
            except OSError as error:
                self.wrong.append(f"n{index + 1} broke off: {error!r}")
                continue
            if answer.status == 404 and by_hash:
                self.answers["not here"] += 1
                continue
            if answer.status != 200:
                self.wrong.append(f"n{index + 1} answered {answer.status}: {answer.body[:300]!r}")
                continue
            said = answer.headers["edgecache-encoder"]
            self.answers[said] += 1
            # Which version it runs is known but for the moment of its upgrade.
            if version and said != f"{versioned.NAME}@{version}":
                self.wrong.append(f"n{index + 1} answered for {said} and runs {version}")
            expected = versioned.features(image, said.rpartition("@")[2])
            if np.abs(answer.array() - expected).max() > 2:  # INT8: a step of 256/127
                self.wrong.append(f"n{index + 1} answered other features than those of {said}")


def start(nodes: Nodes, index: int, version: str, *flags: str) -> RunningNode:
    return nodes.start(
        "--name", f"n{index + 1}", "--data-dir", str(nodes.directory / f"n{index + 1}"), "--encoder",
        versioned.SPEC, *flags, environment={versioned.VARIABLE: version, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.timeout(400)  # ten starts of a process, one after another: 20 s, and minutes on a busy machine
def test_a_rolling_upgrade_shows_no_answer_of_another_version_and_no_failed_request(nodes: Nodes) -> None:
    running = [start(nodes, index, "1") for index in range(5)]
    for node in running:
        node.until_members(5)
    with Load(list(running), ["1"] * 5) as load:
        time.sleep(0.5)
        for index in range(5):
            load.versions[index] = ""
            assert load.nodes[index].terminate() == 0
            node = start(nodes, index, "2", "--listen", load.nodes[index].url.removeprefix("http://"))
            node.until_members(5)
            load.nodes[index], load.versions[index] = node, "2"
        time.sleep(0.5)
        done = edgecache("invalidate", "--encoder", versioned.NAME, "--version", "2", url=load.nodes[0].url)
        assert done.returncode == 0, done.stderr
        time.sleep(0.5)
    assert load.wrong == []
    assert load.answers[f"{versioned.NAME}@1"] > 20
    assert load.answers[f"{versioned.NAME}@2"] > 20
    path = f"/v1/features/{sha256(PHOTOS[0]).hexdigest()}?version=1"
    until(lambda: all(node.get(path).status == 409 for node in load.nodes), "version 1 is gone everywhere")


def test_after_an_upgrade_old_features_on_disk_stand_in_where_a_map_was_given(nodes: Nodes, tmp_path: Path) -> None:
    old, new = versioned.identity("1"), versioned.identity("2")
    dim = versioned.Encoder.shape[1]
    weight, bias = np.zeros((dim, dim), np.float32), np.arange(1, dim + 1, dtype=np.float32)
    path = tmp_path / "map.safetensors"
    conversion.save(conversion.Conversion(old, new, weight, bias, 0.9, 0.95, 20), path)
    first = start(nodes, 0, "1", "--disk", "32MiB")
    made = first.request("POST", "/v1/features?durable=true", PHOTOS[0])
    assert made.status == 200, made.body
    assert first.terminate() == 0
    second = start(nodes, 0, "2", "--disk", "32MiB", "--convert", str(path))
    by_hash = f"/v1/features/{sha256(PHOTOS[0]).hexdigest()}"
    until(lambda: second.get(by_hash).status == 200, "old features stand in")
    answer = second.get(by_hash)
    assert answer.headers["edgecache-converted-from"] == str(old)
    assert np.allclose(answer.array(), bias, atol=0.1)
    real = second.request("POST", "/v1/features?durable=true", PHOTOS[0])
    assert "edgecache-converted-from" not in real.headers
    assert np.abs(real.array() - versioned.features(PHOTOS[0], "2")).max() < 2
    assert "edgecache-converted-from" not in second.get(by_hash).headers
