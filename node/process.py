"""A real node: TCP, mDNS, an encoder process, HTTP and signals around a `service.Node`."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import importlib.util
import logging
import os
import random
import resource
import signal
import socket
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..encoder.worker import EncoderWorker
from ..protocol.errors import EdgeCacheError, InvalidValue
from .address_book import AddressBook
from .cluster_key import ClusterKey, read_keys
from .config import DISK_BYTES_MIN, Config, cloud_node_address, default_disk_bytes, default_memory_bytes
from .discovery import MdnsDiscovery
from .eviction.policies import POLICIES
from .http_api import http_app
from .http_server import http_runner
from .identity import HeldIdentity, Identity, claim
from .interfaces import announced, is_loopback, present_addresses
from .link import shown
from .memory_readings import MemoryReadings
from .remembered_removals import RememberedRemovals
from .remembered_versions import RememberedVersions
from .service import Node
from .settings import Settings
from .standard_streams import let_go_of_stdout
from .stats import Stats
from .store.directory import RealDirectory, held_bytes
from .store.disk import READS_MAX, DiskStore
from .store.disk_index import ENTRY_MEMORY_BYTES
from .store.threads import RealThreads
from .tcp import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from ..protocol.conversion import Conversion
    from .link import Address, Network
    from .store.cloud import Remote
    from .store.tier import Cloud

TINY = "edgecache/tiny"
DISK_DIRECTORY = "features"
# Of what is on disk the hot part is in memory, and told of its uses there; S3-FIFO keeps out what comes once.
DISK_POLICY = "s3-fifo"
# The disk's index is memory too: an eighth of the memory tier's bytes at most.
INDEX_SHARE = 8
# A node says that it is ready when its disk answers, or after this: whoever starts it may ask at once.
REMEMBER_PATIENCE_S = 0.5
ENTRIES_MIN = 1024
HTTP_BACKLOG = 128
DESCRIPTORS = 8192
# A full disk tier has SEGMENTS_USUAL files open, and some more for entries of unusual sizes; a small cluster, mDNS and
# the encoder take a hundred. With less than this there may be none left for who calls.
DESCRIPTORS_MIN = 512
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
# What is free is looked for as often: 1 to 10 ms for a heap of 40 MiB, and a page that is wanted again costs a fault.
TRIM_S = 20.0

_log = logging.getLogger(__name__)


class PortInUse(EdgeCacheError):
    """Somebody else listens where this node should."""


async def run(told: Config, environment: Mapping[str, str], read_again: Callable[[], Config]) -> None:
    """Run a node until a signal ends it. PortInUse, InvalidValue. `read_again` gives what it would be told now."""
    keys = read_keys(told.cluster_key) if told.cluster_key is not None else ()
    config = _kept_to_loopback(_in_its_role(told))
    announce = _Announcement(_confined(told, config))
    _allow_descriptors()
    _keep_freed_memory()
    held = await asyncio.to_thread(claim, config.data_dir, default_data_root(environment))
    stop = _stop_on_signals()
    try:
        while await _live(config, keys, held, stop, announce, partial(_reload_on_hangup, told, read_again)) == "twin":
            held.renew()
    finally:
        held.release()


async def _live(
    config: Config,
    keys: Sequence[ClusterKey],
    held: HeldIdentity,
    stop: asyncio.Event,
    announce: _Announcement,
    reload: Callable[[Node], Coroutine[Any, Any, None]],
) -> str:
    """One life of a node under one id: until `stop`, or until a twin turns up that had the id before.

    `announce` is told where it serves.
    """
    identity = held.identity
    listening = _bind(config.listen)
    http_host, http_port = listening.getsockname()[:2]
    node: Node | None = None
    runner: web.AppRunner | None = None
    try:
        node = await _start_node(config, keys, held, http_port)
        names = [config.listen[0], socket.gethostname()]
        runner = http_runner(http_app(node, host_names=names, tokens=[key.token for key in keys]))
        await runner.setup()
        await web.SockSite(runner, listening, backlog=HTTP_BACKLOG).start()
        with contextlib.suppress(TimeoutError):  # a large or slow disk goes on behind
            await asyncio.wait_for(node.lasting.has_recalled.wait(), REMEMBER_PATIENCE_S)
        members = len(node.membership.in_ring()) + 1
        counted = "1 member" if members == 1 else f"{members} members"
        _log.info("node %s, peers at %s, data in %s", identity.id[:8], shown(node.peer_address), identity.data_dir)
        announce(node.name, f"http://{shown((http_host, http_port))}", f"cluster {config.cluster}, {counted}")
        asides = [asyncio.ensure_future(reload(node)), asyncio.ensure_future(_give_back_freed_memory())]
        ends = [asyncio.ensure_future(event.wait()) for event in (stop, node.twin)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (*ends, *asides):
            task.cancel()
        # Open requests end first, while the encoder is there; what they made is handed over like the rest.
        await runner.cleanup()
        runner = None
        await node.leave()
        return "stopped" if stop.is_set() else "twin"
    finally:
        if node is not None:
            await node.stop()
        if runner is not None:
            await runner.cleanup()
        listening.close()


async def _start_node(config: Config, keys: Sequence[ClusterKey], held: HeldIdentity, http_port: int) -> Node:
    identity = held.identity
    name = config.name or _default_name(identity.slot)
    is_reached = not is_loopback(config.listen[0])
    addresses = config.peer_candidates(http_port)
    stats = Stats()
    network = _network(keys, identity.id, stats)
    conversions = await asyncio.to_thread(_conversions, config)
    while True:
        address = addresses.pop(0)
        # Peers elsewhere must not be told of an HTTP face that only this machine reaches.
        told_http_port = http_port if is_reached or is_loopback(address[0]) else 0
        settings = Settings(
            name=name,
            cluster=config.cluster,
            copies=config.replicas,
            memory_bytes=config.memory_bytes or default_memory_bytes(),
            peer_listen=address,
            http=(config.listen[0], told_http_port),
            shown_host=_shown_host(config.listen[0]),
            seeds=config.seeds,
            eviction=config.eviction,
            is_secured=bool(keys),
            prices=config.energy,
            is_cloud=config.role == "cloud",
        )
        disk = await asyncio.to_thread(_disk, config, identity, settings.memory_bytes)
        no_disk = None
        if isinstance(disk, str):
            disk, no_disk = None, disk
        elif disk is not None:
            disk.start()
        node = Node(
            settings,
            identity,
            network=network,
            discovery=None if config.no_mdns else MdnsDiscovery(address[0], random.Random()),
            encoder=_encoder(config),
            address_book=AddressBook(_kept(identity, "peers.json") if config.role == "edge" else None),
            seed=identity.boot,
            stats=stats,
            cloud=_cloud(config, settings, identity, network),
            conversions=conversions,
            pressure=MemoryReadings().read,
            disk=disk,
            no_disk=no_disk,
            hour=lambda: time.localtime().tm_hour,
            remembered=RememberedVersions(_kept(identity, "versions.json")),
            remembered_removals=RememberedRemovals(_kept(identity, "removals.msgpack"), time.time),
        )
        try:
            await node.start()
            return node
        except OSError as error:
            await node.stop()
            if not addresses:
                raise PortInUse(f"cannot listen for peers at {address[0]}:{address[1]}: {_reason(error)}") from None
            _log.info("peer port %d is taken: using a free one", address[1])


def _disk(config: Config, identity: Identity, memory_bytes: int) -> DiskStore | str | None:
    """The disk tier, in a directory of the data directory; None where none is wanted, or why there can be none."""
    if config.disk_bytes == 0:
        return None
    if identity.data_dir is None:
        return "no data directory can be written"
    path = identity.data_dir / DISK_DIRECTORY
    capacity_bytes = config.disk_bytes
    if capacity_bytes is None:
        capacity_bytes = default_disk_bytes(identity.data_dir, held_bytes(path), is_cloud=config.role == "cloud")
        if capacity_bytes == 0:
            missing = f"no disk tier: a share of what is free below {identity.data_dir} is under {DISK_BYTES_MIN} bytes"
            _log.warning("degraded: %s; memory only", missing)
            return missing
    return DiskStore(
        lambda: RealDirectory(path),
        capacity_bytes,
        lambda: POLICIES[DISK_POLICY](capacity_bytes),
        threads=RealThreads(READS_MAX),
        entries_max=max(ENTRIES_MIN, memory_bytes // INDEX_SHARE // ENTRY_MEMORY_BYTES),
    )


def _conversions(config: Config) -> list[Conversion]:
    """The maps that the user gave; InvalidValue for a file that is none."""
    if not config.conversions:
        return []
    from ..protocol.conversion import load  # brings safetensors

    return [load(path) for path in config.conversions]


def _network(keys: Sequence[ClusterKey], node: str, stats: Stats) -> Network:
    if not keys:
        return TcpNetwork()
    from .certificates import contexts  # brings cryptography: 16 MB that a node without a key saves
    from .tls import TlsNetwork

    return TlsNetwork(contexts(keys, node), [key.datagrams for key in keys], stats)


def _cloud(config: Config, settings: Settings, identity: Identity, network: Network) -> Cloud | None:
    if config.cloud is None:
        return None
    from .store.cloud import CloudTier
    from .store.cloud_queue import WriteQueue, puts_bytes_max

    now = asyncio.get_running_loop().time
    return CloudTier(
        _cloud_node(config, settings, identity, network) or _object_store(config.cloud, now),
        now=now,
        rng=random.Random(f"{identity.boot}:cloud"),
        queue=WriteQueue(puts_bytes_max(settings.memory_bytes)),
    )


def _cloud_node(config: Config, settings: Settings, identity: Identity, network: Network) -> Remote | None:
    address = cloud_node_address(config.cloud or "")
    if address is None:
        return None
    from ..protocol.messages import PROTOCOL_VERSION, ZSTD, Hello
    from .partials import Partials
    from .store.cloud_node import NodeRemote, cloud_cluster

    # Without ports: nobody to call back.
    hello = Hello(
        PROTOCOL_VERSION, cloud_cluster(config.cluster), identity.id, identity.boot, settings.name,
        peer_host="", peer_port=0, http_host="", http_port=0, capacity_bytes=0, abilities=ZSTD,
    )  # fmt: skip
    return NodeRemote(network, address, hello, Partials.beside(settings.memory_bytes))


def _object_store(url: str, now: Callable[[], float]) -> Remote:
    from ..protocol.cloud.objects import open_objects
    from .store.cloud_objects import ObjectsRemote

    return ObjectsRemote(open_objects(url), now)


def _encoder(config: Config) -> EncoderWorker | None:
    if config.no_encoder:
        return None
    if config.encoder is not None:
        return EncoderWorker(config.encoder)
    missing = [package for package in ("torch", "PIL", "safetensors") if importlib.util.find_spec(package) is None]
    if missing:
        _log.warning("no encoder: %s is not installed (pip install 'edgecache[encoder]')", missing[0])
        return None
    return EncoderWorker(TINY)


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # Bound is not enough: two sockets may share a port until one of them listens.
        listening.listen(HTTP_BACKLOG)
    except OSError as error:
        listening.close()
        raise PortInUse(f"cannot listen at {address[0]}:{address[1]}: {_reason(error)}") from None
    listening.setblocking(False)
    return listening


def _reason(error: OSError) -> str:
    return "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)


def _kept_to_loopback(config: Config) -> Config:
    """Without a key or --insecure, nothing listens where strangers are."""
    if config.insecure or config.cluster_key is not None:
        return config
    listen, peer_listen = _on_loopback(config.listen), config.peer_listen and _on_loopback(config.peer_listen)
    return replace(config, listen=listen, peer_listen=peer_listen)


class _Announcement:
    """The one line on standard output; a second one only where a later life of the node serves elsewhere.

    The log hears as loudly as `confined` what keeps others out, if anything does.
    """

    def __init__(self, confined: int | None) -> None:
        self._confined = confined
        self._url = ""

    def __call__(self, name: str, url: str, more: str) -> None:
        if url == self._url:
            return
        self._url = url
        if self._confined is not None:
            _log.log(
                self._confined,
                "listening on loopback only: --cluster-key FILE lets other devices in that have the key (edgecache key "
                "new FILE makes one), --insecure whoever is there",
            )
        try:
            print(f"edgecache-node {name} ready at {url} ({more})", flush=True)
        except OSError as error:  # a full disk, or a script that has gone: no reason not to serve
            let_go_of_stdout()
            _log.warning("ready at %s, which standard output does not take: %s", url, error.strerror)


def _confined(told: Config, config: Config) -> int | None:
    """A warning to who wanted `told` to listen elsewhere than the node does now, a word to who did not, or nothing."""
    if config.insecure or config.cluster_key is not None:
        return None
    is_as_told = (told.listen, told.peer_listen) == (config.listen, config.peer_listen)
    return logging.INFO if is_as_told else logging.WARNING


def _in_its_role(config: Config) -> Config:
    """A cloud node looks for nobody, and encodes nothing; its cluster's name keeps members out."""
    if config.role == "edge":
        return config
    from .store.cloud_node import cloud_cluster

    return replace(config, cluster=cloud_cluster(config.cluster), no_mdns=True, no_encoder=True)


def _on_loopback(address: Address) -> Address:
    return address if is_loopback(address[0]) else ("127.0.0.1", address[1])


def _kept(identity: Identity, name: str) -> Path | None:
    return identity.data_dir / name if identity.data_dir is not None else None


def _shown_host(host: str) -> str:
    """An address by which others may reach what listens on `host`."""
    addresses = [here.address for here in announced(host, present_addresses()) if not here.is_loopback]
    return addresses[0] if host in ("0.0.0.0", "::") and addresses else host


def _default_name(slot: int) -> str:
    name = "".join(c for c in socket.gethostname() if c.isprintable()) or "node"
    return name if slot <= 1 else f"{name}-{slot}"


def default_data_root(environment: Mapping[str, str]) -> Path | None:
    """None for a user without a home directory, as a container has them: no HOME, and no entry in passwd."""
    base = environment.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # the XDG base directory specification: a relative path is to be ignored
        base = os.path.expanduser("~/.local/share")
    return Path(base) / "edgecache" if os.path.isabs(base) else None


def _allow_descriptors() -> None:
    """A connection is a descriptor, and the usual limit of 1,024 is meant for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        if wanted < DESCRIPTORS_MIN:
            _log.warning(
                "this process may have %d files and connections open (ulimit -n), fewer than the %d that a full disk "
                "and its peers may take: then nobody else can connect", wanted, DESCRIPTORS_MIN,
            )  # fmt: skip


def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of features that came and went, and not fetch it from the kernel anew each time.

    By default a freed feature at the heap's top goes back at once, and the next one costs 37 page faults: a process
    received 16,300 features of 151 KB a second so, and 33,000 with this. It may hold 8 MiB more than it needs. What is
    larger than 256 KiB does go back: it waits for disk and cloud, and would leave holes that nothing else fills.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    # Each arena may hold as much more, and there are up to eight for each core where many threads come and go: a
    # directory as the cloud had a hundred. By then a node of 48 MiB had grown by 33 MiB in an hour.
    mallopt(_M_ARENA_MAX, 2)
    mallopt(_M_TRIM_THRESHOLD, 8 * 1024 * 1024)
    mallopt(_M_MMAP_THRESHOLD, 256 * 1024)


async def _give_back_freed_memory() -> None:
    """Now and then give the kernel what glibc keeps between what is in use; until cancelled.

    Every peak of features on their way makes the heap a little larger, and some small thing that stays at its end keeps
    it so: after two hours' worth of mixed load 24 of 47 MiB were free and resident, and had not stopped growing.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not glibc
        return
    while True:
        await asyncio.sleep(TRIM_S)
        await asyncio.to_thread(malloc_trim, 0)


async def _reload_on_hangup(told: Config, read_again: Callable[[], Config], node: Node) -> None:
    """At each SIGHUP give the store the memory that the configuration file now says; until cancelled.

    Who started the node without a file wants a terminal that hangs up to end it, as it does every other program.
    """
    if told.config_file is None:
        return
    hangup = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            new = await asyncio.to_thread(read_again)
            memory_bytes = new.memory_bytes or default_memory_bytes()
            await node.resizing.give(memory_bytes)
        except InvalidValue as error:
            _log.error("SIGHUP: nothing is changed: %s", error)
            continue
        _log.info("SIGHUP: %d bytes of memory for features", memory_bytes)
        if replace(new, memory_bytes=told.memory_bytes) != told:
            _log.warning("SIGHUP: of what has changed beside it, the next start will hear")


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            _log.warning("a second %s: leaving at once", number.name)
            os._exit(0)
        _log.info("%s: leaving; once more to leave at once", number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stop
