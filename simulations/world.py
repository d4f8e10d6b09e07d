"""One run of a scenario: real nodes, asked as the workload says, while faults happen and every answer is checked."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..node.eviction.policies import POLICIES
from ..node.found import Found
from ..node.store.cloud import CloudTier
from ..node.store.cloud_queue import WriteQueue, puts_bytes_max
from ..node.tasks import Tasks
from ..protocol.errors import EdgeCacheError, EncoderUnavailable, InvalidValue
from ..protocol.features import Source
from ..protocol.keys import FeatureKey
from . import virtual_time
from .cloud import CloudService, Site, SiteRemote
from .cluster import Cluster
from .devices import MODELS, Device
from .disk import ModelledDisk
from .faults import FAULTS
from .links import LINKS
from .modelled import WAITING_IMAGES_MAX, Bodies, DeviceEncoder, FeatureModel, HeadsStore
from .network import Host
from .process_memory import garbage_looked_for_seldom, give_buffers_no_used_memory, settle
from .record import Answer, Meter, Record
from .scenario import Scenario
from .workloads.catalogue import workload
from .workloads.log import read_log
from .workloads.requests import HOUR_S, Requests

# With an image in hand all waiting for others is a share of an encode (`node/cost.py`), and without one 2 s for peers;
# whoever takes longer than this besides encoding hangs.
DEADLINE_S = 4.0
CONVERGES_WITHIN_S = 90.0
# Who asks a device is one program on it: the stream that HTTP takes its requests for (`docs/eviction.md`).
PROGRAM = "127.0.0.1"


class InvariantBroken(EdgeCacheError):
    """Something happened that must never happen."""


_ANSWERS = {
    Source.MEMORY: Answer.MEMORY,
    Source.DISK: Answer.DISK,
    Source.PEER: Answer.PEER,
    Source.CLOUD: Answer.CLOUD,
    Source.ENCODER: Answer.ENCODER,
}


def simulate(
    scenario: Scenario,
    progress: Callable[[float, str], None] = lambda share, what: None,
    requests: Requests | None = None,
) -> Record:
    """Run `scenario`; `progress` hears how far it is. InvariantBroken names the seed.

    `requests`: where they are not those that the scenario names.
    """
    give_buffers_no_used_memory()
    world = World(scenario, requests_of(scenario) if requests is None else requests, progress)
    with garbage_looked_for_seldom(), _logging_nothing():
        return virtual_time.run(world.run())


@contextmanager
def _logging_nothing() -> Iterator[None]:
    """What breaks here, breaks on purpose."""
    logger = logging.getLogger("edgecache")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def requests_of(scenario: Scenario) -> Requests:
    """What the scenario's devices ask for."""
    if not scenario.is_log:
        made = workload(scenario.workload, scenario.parameters)
        return made.requests(scenario.devices, scenario.hours, np.random.default_rng([scenario.seed, 1]))
    recorded = read_log(Path(scenario.workload))
    is_within = recorded.times < scenario.hours * HOUR_S
    # A log of more devices than there are to be: several of its devices ask on one of ours.
    of = recorded.devices[is_within] % scenario.devices
    return replace(recorded, times=recorded.times[is_within], devices=of, images=recorded.images[is_within])


class World:
    """The cluster, its site's cloud, who asks, and what faults can do to them."""

    def __init__(
        self,
        scenario: Scenario,
        requests: Requests,
        progress: Callable[[float, str], None] = lambda share, what: None,
        *,
        device: Device | None = None,
        ids: Sequence[str] = (),
    ) -> None:
        """`device` and the nodes' `ids`, where they are those of real nodes to compare with."""
        if not len(requests):
            raise InvalidValue(f"{scenario.workload} asks for nothing within {scenario.hours:g} h")
        self.devices = scenario.devices
        self.minutes = float(requests.times[-1]) / 60 if scenario.is_log else scenario.hours * 60
        self.rng = random.Random(f"{scenario.seed}:faults")
        self._scenario = scenario
        self._requests = requests
        self._progress = progress
        self._device = device or scenario.profile
        self._bodies = Bodies()
        self._models: dict[str, FeatureModel] = {}
        self._versions = ["1"] * scenario.devices
        self.site = Site(LINKS[scenario.uplink], CloudService(), self._bodies, scenario.seed)
        self._disks = [ModelledDisk(scenario.disk_bytes, self._device, self._bodies) for _ in range(self.devices)]
        self.cluster = Cluster(
            self.devices,
            ids=ids,
            seed=scenario.seed,
            copies=scenario.replicas,
            encoder=lambda index: self._encoder(index),
            link=lambda index: LINKS[scenario.link],
            memory=lambda index: HeadsStore(scenario.memory, POLICIES[scenario.policy](scenario.memory), self._bodies),
            disk=lambda index: self._disks[index] if scenario.disk_bytes else None,
            cloud=lambda index: self._cloud(index) if scenario.cloud else None,
            pack=lambda index: self._model(self._versions[index]).pack,
        )
        count = len(requests)
        self.record = Record(scenario, requests, np.full(count, -1, np.int8), np.zeros(count))
        self._keys: dict[tuple[int, str], FeatureKey] = {}
        self._broken: InvariantBroken | None = None
        self._started_at = 0.0
        self._done = 0
        self._encoded_before = [0] * self.devices

    # -- the run ------------------------------------------------------------------------------------------------

    async def run(self) -> Record:
        """All requests, and then the end of all faults."""
        async with self.cluster as cluster:
            for index in range(self.devices):
                cluster.network.host(f"n{index}").access.extra_delay_s = self._device.message_s
            settle()
            self._started_at = asyncio.get_running_loop().time()
            self._progress(0.0, f"{self.devices} devices have met")
            faults = [asyncio.ensure_future(FAULTS[name](self)) for name in self._scenario.faults]
            sampler = asyncio.ensure_future(self._sample())
            await self._ask_all()
            self._progress(1.0, "all requests are answered")
            await asyncio.sleep(max(0.0, self.minutes * 60 - self._now() if faults else 0.0))
            sampler.cancel()
            await self._end(faults)
            if faults:
                await self._check_convergence()
            self._count()
        return self.record

    async def _ask_all(self) -> None:
        """Each request at its time, whether the ones before are answered or not."""
        loop = asyncio.get_running_loop()
        times = self._requests.times.tolist()
        asking: Tasks[None] = Tasks()
        for number, at in enumerate(times):
            wait_s = self._started_at + at - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if self._broken is not None:
                raise self._broken
            asking.start(self._ask(number))
            if number % 256 == 0:
                self._progress(at / times[-1] if times[-1] else 1.0, f"{at / HOUR_S:.1f} h, {number:,} requests")
        while asking:
            await asyncio.wait(tuple(asking))
        if self._broken is not None:
            raise self._broken

    async def _ask(self, number: int) -> None:
        device = int(self._requests.devices[number])
        if not self.cluster.is_running(device):
            self.record.answers[number] = Answer.DOWN
            return
        node, version = self.cluster.nodes[device], self._versions[device]
        key = self._key(int(self._requests.images[number]), version)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        answer = Answer.FAILED
        found, failure = None, None
        try:
            found = await node.lookup.get(key, key.digest, stream=PROGRAM)
        except EncoderUnavailable:
            pass
        except Exception as error:  # whatever it is, the seed that shows it is to be named
            failure = error
        took_s = loop.time() - asked_at
        if self.cluster.nodes[device] is not node or not self.cluster.is_running(device):
            self.record.answers[number] = Answer.DOWN
            return
        if failure is not None:
            self._break(f"device {device} raised {failure!r}")
        if found is not None:
            answer = _ANSWERS[found.source]
            self._check(found, key, version)
        if took_s > DEADLINE_S + (WAITING_IMAGES_MAX + 1) * self._device.encode_s[self._scenario.model]:
            self._break(f"device {device} waited {took_s:.2f} s for an answer")
        self.record.answers[number] = answer
        self.record.latencies[number] = took_s + self._device.answer_s

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(HOUR_S)
            self._read_meter()

    def _read_meter(self) -> None:
        hosts = self._hosts()
        self.record.meters.append(
            Meter(
                encodes=sum(self._encodes()),
                lan_sent=sum(host.bytes_sent for host in hosts),
                lan_received=sum(host.bytes_received for host in hosts),
                uplink_up=self.site.bytes_up,
                uplink_down=self.site.bytes_down,
                store_usd=self.site.store_price(),
            )
        )

    def _hosts(self) -> list[Host]:
        return [self.cluster.network.host(f"n{index}") for index in range(self.devices)]

    def _encodes(self) -> list[int]:
        """By device: what its encoder now and those before have made."""
        now = [len(encoder.encoded) if encoder is not None else 0 for encoder in self.cluster.encoders]
        return [before + made for before, made in zip(self._encoded_before, now, strict=True)]

    async def _end(self, faults: list[asyncio.Task[None]]) -> None:
        for name, fault in zip(self._scenario.faults, faults, strict=True):
            if fault.done() and (error := fault.exception()) is not None:
                self._break(f"{name} raised {error!r}")
            fault.cancel()
        await asyncio.gather(*faults, return_exceptions=True)
        self.heal()
        self.heal_cloud()
        for device in range(self.devices):
            self.slow_down(device, 0.0)
            await self.restart(device)

    def _count(self) -> None:
        self._read_meter()
        hosts = self._hosts()
        self.record.encodes = np.array(self._encodes(), np.int64)
        self.record.bytes_sent = np.array([host.bytes_sent for host in hosts], np.int64)
        self.record.bytes_received = np.array([host.bytes_received for host in hosts], np.int64)
        self.record.evictions = sum(node.store.memory.evictions for node in self.cluster.nodes)
        ahead = [it for node in self.cluster.nodes for it in node.counters()["prefetch"].values()]
        self.record.fetched_ahead = sum(it["issued"] for it in ahead)
        self.record.fetched_in_time = sum(it["used"] for it in ahead)

    def _key(self, image: int, version: str) -> FeatureKey:
        key = self._keys.get((image, version))
        if key is None:
            key = self._keys[image, version] = self._model(version).key(self._requests.digest(image))
        return key

    def _model(self, version: str) -> FeatureModel:
        if version not in self._models:
            self._models[version] = FeatureModel(*MODELS[self._scenario.model], version=version)
        return self._models[version]

    def _encoder(self, index: int) -> DeviceEncoder:
        # Images are their own digests here.
        encode_s = self._device.encode_s[self._scenario.model]
        model = self._model(self._versions[index])
        return DeviceEncoder(model, encode_s, digest=lambda image: image, is_packed_later=True)

    def _cloud(self, index: int) -> CloudTier:
        return CloudTier(
            SiteRemote(self.site),
            now=asyncio.get_running_loop().time,
            rng=random.Random(f"{self._scenario.seed}:{index}:cloud"),
            queue=WriteQueue(puts_bytes_max(self._scenario.memory)),
        )

    # -- invariants ---------------------------------------------------------------------------------------------

    def _check(self, found: Found, key: FeatureKey, version: str) -> None:
        if found.payload.key != key:
            self._break(f"{found.node} answered {found.payload.key} for {key}")
        elif not self._model(version).made(found.payload, key.digest):
            self._break(f"{found.node} answered other features than those of {key}")

    async def _check_convergence(self) -> None:
        try:
            await self.cluster.until(self.cluster.has_met, CONVERGES_WITHIN_S)
        except TimeoutError:
            self._break(f"members do not agree {CONVERGES_WITHIN_S:g} s after the last fault")
        rings = {tuple(sorted(node.cluster()["ring"]["virtual_nodes"].items())) for node in self.cluster.nodes}
        if len(rings) != 1:
            self._break(f"{len(rings)} different rings after the last fault")
        for node in self.cluster.nodes:
            for held in node.store.memory:
                if not node.versions.is_current(held.key.encoder):
                    self._break(f"{node.name} still holds {held.key}")
        if self._broken is not None:
            raise self._broken

    def _break(self, what: str) -> None:
        if self._broken is None:
            seed = self._scenario.seed
            self._broken = InvariantBroken(f"{what}, {self._now():.3f} s after the start (--seed {seed})")

    # -- what faults can do -------------------------------------------------------------------------------------

    async def wait(self, *, minutes: float) -> None:
        """Let time pass."""
        await asyncio.sleep(minutes * 60)

    async def any_running_device(self) -> int:
        """One of those that are on, as soon as one is."""
        while not (running := [index for index in range(self.devices) if self.cluster.is_running(index)]):
            await self.wait(minutes=0.1)
        return self.rng.choice(running)

    async def crash(self, device: int) -> None:
        """The device loses power; another fault may have been there before."""
        if self.cluster.is_running(device):
            await self.cluster.crash(device)

    async def leave(self, device: int) -> None:
        """The device is shut down, if it is on."""
        if self.cluster.is_running(device):
            await self.cluster.leave(device)

    async def restart(self, device: int) -> None:
        """The device is on again."""
        if not self.cluster.is_running(device):
            await self.cluster.restart(device)

    def upgrade(self, device: int, version: str) -> None:
        """The device, which is off, has another version of the encoder when it is on again."""
        former = self.cluster.encoders[device]
        self._encoded_before[device] += len(former.encoded) if former is not None else 0
        self._versions[device] = version
        self.cluster.encoders[device] = self._encoder(device)

    async def invalidate_all_but(self, version: str) -> None:
        """Tell one node that only this version of the encoder is valid."""
        device = await self.any_running_device()
        await self.cluster.nodes[device].invalidate(self._model(version).identity.name, version)

    def cut_into_halves(self) -> None:
        """No half of the devices hears the other."""
        shuffled = self.rng.sample(range(self.devices), self.devices)
        for one in shuffled[: self.devices // 2]:
            for other in shuffled[self.devices // 2 :]:
                self.cluster.network.cut(f"n{one}", f"n{other}")

    def heal(self) -> None:
        """All hear each other again."""
        self.cluster.network.heal()

    def slow_down(self, device: int, extra_delay_s: float) -> None:
        """What the device says and is told takes so much longer."""
        self.cluster.network.slow_down(f"n{device}", self._device.message_s + extra_delay_s)

    def cut_cloud(self) -> None:
        """The cloud is out of reach."""
        self.site.cut()

    def heal_cloud(self) -> None:
        """It is back."""
        self.site.heal()

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at
