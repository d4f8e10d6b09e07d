"""One seed, one run: to the time of each arrival, and wherever in memory tasks and connections happen to lie.

What `hash` makes of those is by default their address, which another run, another Python or another machine gives anew;
and who walks a set of them walks it in that order. Here it is drawn, so that two runs differ where any order does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from hashlib import sha256
from typing import Any

import pytest
from edgecache.node.link import Link
from edgecache.node.peer_protocol import PeerProtocol
from edgecache.simulations.scenario import scenario_named
from edgecache.simulations.soak import soak
from edgecache.simulations.transport import InMemoryTransport
from edgecache.simulations.virtual_time import VirtualTimeLoop
from edgecache.simulations.world import requests_of, simulate


def _arrivals(run: Callable[[], object], hash_seed: int) -> str:
    """A digest of when everything arrived in a run whose objects have the hashes that `hash_seed` draws."""
    hashes = random.Random(hash_seed)
    drawn: dict[object, int] = {}
    arrivals = sha256()

    class _Task(asyncio.Task[Any]):
        def __init__(self, coro: Coroutine[Any, Any, Any], **how: Any) -> None:
            self._hash = hashes.getrandbits(60)
            super().__init__(coro, **how)

        def __hash__(self) -> int:
            return self._hash

    class _ById:
        """Equal to itself alone, as what it stands for."""

        def __init__(self, of: object) -> None:
            self.of = of  # kept, or another could have its address

        def __hash__(self) -> int:
            return id(self.of)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, _ById) and other.of is self.of

    def hash_of(self: object) -> int:
        return drawn.setdefault(_ById(self), hashes.getrandbits(60))

    post_at = VirtualTimeLoop.post_at

    def post_and_note(self: VirtualTimeLoop, when: float, callback: Callable[..., object], *args: Any) -> None:
        arrivals.update(repr(when).encode())
        post_at(self, when, callback, *args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(VirtualTimeLoop, "post_at", post_and_note)
        patched.setattr(VirtualTimeLoop, "create_task", lambda self, coro, **how: _Task(coro, loop=self, **how))
        for kind in (PeerProtocol, Link, InMemoryTransport):
            patched.setattr(kind, "__hash__", hash_of)
        run()
    return arrivals.hexdigest()


@pytest.mark.parametrize("fault", ["rolling-upgrade", "churn", "partition", "flash-crowd"])
def test_a_scenario_does_not_depend_on_addresses_in_memory(fault: str) -> None:
    scenario = scenario_named(fault, {"devices": 5, "hours": 0.05, "seed": 7})

    def run() -> None:
        simulate(scenario, lambda share, what: None, requests_of(scenario))

    assert _arrivals(run, 1) == _arrivals(run, 2) == _arrivals(run, 3)


def test_nor_does_a_random_day() -> None:
    assert _arrivals(lambda: soak(7, 0.5), 1) == _arrivals(lambda: soak(7, 0.5), 2)
