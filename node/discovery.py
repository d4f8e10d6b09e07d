"""How nodes meet: each announces itself by mDNS where it listens, and hears the others do the same.

mDNS is for the first meeting only. A killed node stays announced for 19 minutes and anybody can announce anything, so
what is heard here is a claim: it earns a handshake, never a place in the cluster. Who is alive the members find out
from each other.

The order of things on each interface:

1. The node announces itself at once. Others probe for a second first whether their name is taken; ours holds a random
   boot id and the address, and is free.
2. It asks who else is there, and again after 1, 5 and 14 seconds (zeroconf's browser does).
3. Every 30 to 60 s it announces itself again with one packet and starts a new browser. Two halves of a split network
   that was healed find each other that way; without it they had not after four minutes. The announcement costs one
   packet per node and round however large the cluster is, and keeps the living in everybody's cache: a new browser
   reports those again, while the records of the dead have run out after two minutes.
4. It says goodbye when it stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from zeroconf import DNSQuestionType, IPVersion, ServiceStateChange, Zeroconf
from zeroconf import Error as ZeroconfError
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from .interfaces import InterfaceAddress, announced, present_addresses
from .multicast import echo, keep_to
from .sightings import SIGHTINGS_MAX, Announcement, Claim, Ignored, Sighting, Sightings, read_claim

SERVICE_TYPE = "_edgecache._tcp.local."

# Claims that came in pieces and are being asked for. Whole nodes announce themselves in one packet.
RESOLVES_MAX = 16
RESOLVE_TIMEOUT_S = 3.0

ROUND_S = (30.0, 60.0)
INTERFACES_POLL_S = 3.0
STOP_TIMEOUT_S = 0.8
# `find_nodes` gives up waiting for more this long after the first: the others answer within 120 ms (RFC 6762, 6).
SETTLE_S = 0.25


# What the kernel, the network and zeroconf say when mDNS cannot be had here and now.
_REFUSALS = (OSError, ZeroconfError, TimeoutError)

_log = logging.getLogger(__name__)


class MdnsDiscovery:
    """Announces a node on the interfaces it listens on, follows them as they come and go, and hears the others."""

    def __init__(
        self,
        listen_host: str,
        rng: random.Random,
        *,
        present: Callable[[], list[InterfaceAddress]] = present_addresses,
        poll_s: float = INTERFACES_POLL_S,
        round_s: tuple[float, float] = ROUND_S,
    ) -> None:
        self._listen_host = listen_host
        self._rng = rng
        self._present = present
        self._poll_s = poll_s
        self._round_s = round_s
        self._presences: dict[InterfaceAddress, _Presence] = {}
        self._failing: dict[InterfaceAddress, _Failure] = {}
        self._sightings: Sightings | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def interfaces(self) -> list[InterfaceAddress]:
        """Where the node is announced now."""
        return list(self._presences)

    @property
    def ignored(self) -> Counter[Ignored]:
        """How many announcements earned nothing, by reason."""
        return self._sightings.ignored if self._sightings is not None else Counter()

    async def start(self, me: Announcement, found: Callable[[Sighting], None]) -> None:
        """See `Discovery.start`. No multicast, no rights, no network yet: logged, and tried again."""
        assert self._task is None, "started twice"
        self._sightings = Sightings(me)
        self._task = asyncio.create_task(self._run(me, self._sightings, found), name="mdns")
        self._task.add_done_callback(_say_if_failed)

    async def stop(self) -> None:
        """See `Discovery.stop`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        presences, self._presences = list(self._presences.values()), {}
        if presences:
            closing = [asyncio.create_task(presence.close()) for presence in presences]
            _, late = await asyncio.wait(closing, timeout=STOP_TIMEOUT_S)
            for task in late:
                task.cancel()

    async def _run(self, me: Announcement, sightings: Sightings, found: Callable[[Sighting], None]) -> None:
        def hear(claim: Claim | Ignored) -> None:
            if (sighting := sightings.judge(claim)) is not None:
                found(sighting)

        loop = asyncio.get_running_loop()
        round_ends = loop.time() + self._rng.uniform(*self._round_s)
        while True:
            await self._follow_interfaces(me, hear)
            await asyncio.sleep(self._poll_s)
            if loop.time() >= round_ends:
                round_ends = loop.time() + self._rng.uniform(*self._round_s)
                # A flood sits in the cache and would fill each round before the living get a turn.
                forget = sightings.new_round()
                for presence in self._presences.values():
                    await presence.ask_again(forget)

    async def _follow_interfaces(self, me: Announcement, hear: Callable[[Claim | Ignored], None]) -> None:
        wanted = announced(self._listen_host, self._present())
        for where in [where for where in self._presences if where not in wanted]:
            _log.info("%s on %s is gone: no longer announced there", where.address, where.interface)
            await self._presences[where].close()
            del self._presences[where]
        self._failing = {where: failure for where, failure in self._failing.items() if where in wanted}
        now = asyncio.get_running_loop().time()
        for where in wanted:
            failure = self._failing.get(where)
            if where in self._presences or (failure is not None and now < failure.again):
                continue
            presence = _Presence(where, hear)
            try:
                await presence.open(me)
            except _REFUSALS as error:
                await presence.close()
                self._fail(where, str(error) or type(error).__name__, now)
            except asyncio.CancelledError:
                await presence.close()
                raise
            else:
                self._presences[where] = presence
                self._failing.pop(where, None)
                await self._say_opened(where)

    async def _say_opened(self, where: InterfaceAddress) -> None:
        # zeroconf goes on when nothing that it sends is heard, and so does the node: a firewall may open later.
        if (why := await echo(where)) is None:
            _log.info("announced by mDNS at %s on %s", where.address, where.interface)
        else:
            _log.warning(
                "mDNS is stopped at %s on %s (%s): does a firewall let UDP port 5353 through?",
                where.address,
                where.interface,
                why,
            )

    def _fail(self, where: InterfaceAddress, why: str, now: float) -> None:
        last = self._failing.get(where)
        pause_s = self._poll_s if last is None else min(2 * last.pause_s, self._round_s[1])
        self._failing[where] = _Failure(why, now + pause_s, pause_s)
        if last is None or last.why != why:  # once, and not at each attempt
            _log.warning(
                "mDNS does not work at %s on %s (%s): only seeds and remembered peers are found there; still trying",
                where.address,
                where.interface,
                why,
            )


@dataclass(frozen=True, slots=True)
class _Failure:
    why: str
    again: float
    pause_s: float


async def hear_nodes(
    timeout_s: float, settle_s: float | None = None, present: Iterable[InterfaceAddress] | None = None
) -> list[Claim]:
    """What is announced on every interface (or those of `present`) now, in the order heard. Announces nothing.

    Listens for `timeout_s`, or if `settle_s` is given, for that long after the first claim. Empty where mDNS does not
    work.
    """
    claims: dict[Claim, None] = {}
    first = asyncio.Event()

    def hear(claim: Claim | Ignored) -> None:
        if isinstance(claim, Claim) and len(claims) < SIGHTINGS_MAX:
            claims[claim] = None
            first.set()

    places = announced("0.0.0.0", present_addresses() if present is None else present)
    presences = [_Presence(where, hear) for where in places]
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for presence in presences:
                    with contextlib.suppress(*_REFUSALS):
                        await presence.open(None)
                if settle_s is not None:
                    await first.wait()
                await asyncio.sleep(timeout_s if settle_s is None else settle_s)
    finally:
        await asyncio.gather(*(presence.close() for presence in presences))
    return list(claims)


async def find_nodes(timeout_s: float) -> list[tuple[str, str]]:
    """The name and HTTP url of each node that answers by mDNS, once, with those of this machine's loopback first.

    Returns 0.25 s after it heard the first, or empty after `timeout_s`.
    """
    claims = [claim for claim in await hear_nodes(timeout_s, SETTLE_S) if claim.http_port]
    claims.sort(key=lambda claim: (not claim.heard_on.is_loopback, claim.name, claim.address))
    nearest: dict[str, Claim] = {}
    for claim in claims:
        nearest.setdefault(claim.id, claim)
    return [(claim.name, f"http://{claim.address[0]}:{claim.http_port}") for claim in nearest.values()]


class _Presence:
    """This node at one address: its announcement there, and its ear. Nothing is sent or heard on other interfaces."""

    def __init__(self, where: InterfaceAddress, hear: Callable[[Claim | Ignored], None]) -> None:
        self.where = where
        self._hear = hear
        self._mdns: AsyncZeroconf | None = None
        self._service: AsyncServiceInfo | None = None
        self._own: str | None = None
        self._announcing: asyncio.Future[None] | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._resolving: dict[str, asyncio.Task[None]] = {}

    async def open(self, me: Announcement | None) -> None:
        """Join the group, announce `me` (None: listen only) and ask who is there. One of `_REFUSALS` if it cannot."""
        self._mdns = AsyncZeroconf(interfaces=[self.where.address], ip_version=IPVersion.V4Only)
        engine = self._mdns.zeroconf.engine
        await self._mdns.zeroconf.async_wait_for_start()
        if not engine.senders:
            raise OSError("the kernel gives no multicast socket")
        for reader in engine.readers:
            keep_to(self.where.interface, reader.transport.get_extra_info("socket"))
        if me is not None:
            self._own = _label(me)
            self._service = _service(me, self.where.address)
            # "Cooperating" skips the second of probing for a name that holds a random boot id and our own address.
            registration = self._mdns.async_register_service(self._service, cooperating_responders=True)
            self._announcing = asyncio.ensure_future(await registration)
        self._browse(self._mdns.zeroconf)

    async def ask_again(self, forget: bool) -> None:
        """Announce once more and start a new browser; with `forget`, as if nothing had been heard so far."""
        assert self._mdns is not None
        assert self._browser is not None
        mdns = self._mdns.zeroconf
        if forget:
            mdns.cache.async_remove_records(
                [r for name in mdns.cache.names() for r in mdns.cache.entries_with_name(name)]
            )
        if self._service is not None:
            mdns.async_send(mdns.generate_service_broadcast(self._service, None))
        await self._browser.async_cancel()
        self._browse(mdns)

    async def close(self) -> None:
        """Say goodbye, three times in 0.25 s, and close. Harmless when repeated."""
        for task in self._resolving.values():
            task.cancel()
        if self._announcing is not None:
            self._announcing.cancel()  # or it would go on after the goodbye
        if self._browser is not None:
            await self._browser.async_cancel()
            self._browser = None
        if self._mdns is not None:
            with contextlib.suppress(*_REFUSALS):
                await self._mdns.async_close()
            self._mdns = None

    def _browse(self, mdns: Zeroconf) -> None:
        # Answers to a unicast question go to port 5353 of this address, where one of all nodes here gets them.
        self._browser = AsyncServiceBrowser(
            mdns, SERVICE_TYPE, handlers=[self._changed], question_type=DNSQuestionType.QM
        )

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            return  # who is gone the members find out for themselves, sooner
        if self._own is not None and name.startswith(self._own):
            return
        try:
            service = AsyncServiceInfo(service_type, name)
        except ZeroconfError:
            self._hear(Ignored.MALFORMED)
            return
        if service.load_from_cache(zeroconf):
            self._read(service)
        elif name not in self._resolving:
            if len(self._resolving) >= RESOLVES_MAX:
                self._hear(Ignored.TOO_MANY)
                return
            task = asyncio.create_task(self._resolve(zeroconf, service))
            self._resolving[name] = task
            task.add_done_callback(lambda _: self._resolving.pop(name))

    async def _resolve(self, zeroconf: Zeroconf, service: AsyncServiceInfo) -> None:
        with contextlib.suppress(*_REFUSALS):
            if await service.async_request(zeroconf, RESOLVE_TIMEOUT_S * 1000):
                self._read(service)

    def _read(self, service: AsyncServiceInfo) -> None:
        addresses = service.parsed_addresses(IPVersion.V4Only)
        self._hear(read_claim(service.text, service.port, addresses, self.where))


def _label(me: Announcement) -> str:
    """What the names of this boot's services begin with, on every interface."""
    return f"{me.id[:8]}-{me.boot}-"


def _service(me: Announcement, address: str) -> AsyncServiceInfo:
    """The records that announce `me` at one address: their name is used by no other boot, node or interface."""
    label = f"{_label(me)}{address.replace('.', '-')}"  # at most 57 of the 63 bytes
    values = {
        "id": me.id,
        "boot": me.boot,
        "cluster": me.cluster,
        "version": str(me.protocol_version),
        "http": str(me.http_port),
        "name": me.name,
    }
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{label}.{SERVICE_TYPE}",
        port=me.peer_port,
        properties=values,
        server=f"{label}.local.",
        parsed_addresses=[address],
    )


def _say_if_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("discovery by mDNS has ended by a fault of its own", exc_info=error)
