"""What may happen during a run: each fault is one function that reads like its sentence.

Invariants are checked all the while (`world.py`): each answer is the right one, of the right version, in time; and at
the end the membership and the rings agree, and nobody holds what is outdated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .world import World


async def churn(world: World) -> None:
    """Every few minutes a device dies, and comes back a minute later with its memory empty."""
    while True:
        await world.wait(minutes=world.rng.uniform(1, 4))
        device = await world.any_running_device()
        await world.crash(device)
        await world.wait(minutes=1)
        await world.restart(device)


async def partition(world: World) -> None:
    """Twice, one half of the devices does not hear the other for ten minutes, or for a tenth of a shorter run."""
    minutes = min(10.0, world.minutes / 10)
    for _ in range(2):
        await world.wait(minutes=world.minutes / 5)
        world.cut_into_halves()
        await world.wait(minutes=minutes)
        world.heal()


async def slow_device(world: World) -> None:
    """From a third of the run to its end, everything that one device says or is told takes 300 ms more."""
    await world.wait(minutes=world.minutes / 3)
    world.slow_down(await world.any_running_device(), 0.3)


async def cloud_outage(world: World) -> None:
    """For the second third of the run the cloud is out of reach."""
    await world.wait(minutes=world.minutes / 3)
    world.cut_cloud()
    await world.wait(minutes=world.minutes / 3)
    world.heal_cloud()


async def rolling_upgrade(world: World) -> None:
    """From the middle of the run on, one device a minute leaves and comes back with version 2; then 1 is invalid."""
    await world.wait(minutes=world.minutes / 2)
    for device in range(world.devices):
        await world.leave(device)
        world.upgrade(device, "2")
        await world.restart(device)
        await world.wait(minutes=min(1.0, world.minutes / 4 / world.devices))
    await world.invalidate_all_but("2")


FAULTS: Mapping[str, Callable[[World], Awaitable[None]]] = MappingProxyType(
    {
        "churn": churn,
        "partition": partition,
        "slow-device": slow_device,
        "cloud-outage": cloud_outage,
        "rolling-upgrade": rolling_upgrade,
    }
)
