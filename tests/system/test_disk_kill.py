"""kill -9 of a process that writes to its disk tier: what was durable is there, and nothing is torn or mixed up."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .disk_writer import KEYS, generation_of, key, store_in

ROUNDS = 24
ROUNDS_SOAK = 200


def killed_writer(path: Path, rng: random.Random, generation: int) -> list[str]:
    """Let a writer run for a moment from that generation on, kill it, and give the lines it has printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.system.disk_writer", str(path), str(rng.random()), str(generation)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(rng.random() * 0.3)
    process.kill()
    lines = process.stdout.read().splitlines()
    process.stdout.close()
    process.wait()
    return lines


async def checked(path: Path, owed: dict[int, int]) -> dict[int, int]:
    """Every key's generation, after a look at each: whole, its own, and not older than what is owed."""
    store = store_in(path)
    store.start()
    await store.ready()
    assert store.trouble is None
    store.check()
    found: dict[int, int] = {}
    for number in range(KEYS):
        data = await store.get(key(number))
        if data is None:
            assert number not in owed, f"key {number} was durable in generation {owed[number]} and is gone"
            continue
        generation = generation_of(number, data)
        assert generation is not None, f"key {number} holds {bytes(data[:40])!r}…"
        found[number] = generation
    await store.close()
    return found


async def killed_again_and_again(path: Path, rounds: int) -> None:
    rng = random.Random(rounds)
    owed: dict[int, int] = {}
    for _ in range(rounds):
        for line in killed_writer(path, rng, max(owed.values(), default=0) + 1):
            generation, *numbers = map(int, line.split())
            owed.update(dict.fromkeys(numbers, generation))
        found = await checked(path, owed)
        assert all(found[number] >= generation for number, generation in owed.items()), "an old one came back"
        owed = found  # what survived one kill has to survive the next
    # It was written at all: keys are drawn, and how many generations there are is for how busy this machine is.
    assert len(owed) > KEYS // 2


async def test_a_writer_killed_two_dozen_times(tmp_path: Path) -> None:
    await killed_again_and_again(tmp_path, ROUNDS)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_writer_killed_two_hundred_times(tmp_path: Path) -> None:
    await killed_again_and_again(tmp_path, ROUNDS_SOAK)
