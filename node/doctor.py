"""Why do my devices not see each other, or answer slowly? The checks behind `edgecache doctor`, in the order of doubt.

First facts are gathered (what a node says, what mDNS brings, who accepts a connection), then each question is judged by
a function of those facts alone. A check that could not be made says so; it is never reported as passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import msgspec

from .client_nodes import in_words
from .discovery import hear_nodes
from .interfaces import InterfaceAddress, announced, is_loopback, present_addresses
from .multicast import echo
from .sightings import Claim

HTTP_TIMEOUT_S = 3.0
CLUSTER_BYTES_MAX = 4 * 1024 * 1024
LISTEN_S = 3.0
DIAL_TIMEOUT_S = 1.0
# A connection on a LAN takes well below this; above it, fetching from the peer is slower than most encoders.
SLOW_DIAL_S = 0.05

REFUSED = "refused"
NEEDS_TOKEN = "it wants the token of its cluster key"

_WITH_KEY = "--cluster-key FILE --listen 0.0.0.0:7440"
_FIREWALL = "let UDP port 5353 (mDNS) through this device's firewall"


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. `ok` is None where the answer is neither good nor bad, or could not be had."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""
    """What to do; empty when there is nothing to do."""


class NodeSeen(msgspec.Struct, frozen=True):
    """The part of a node's own account that is looked at here. `peer` is HOST:PORT."""

    id: str = ""
    name: str = ""
    cluster: str = ""
    peer: str = ""
    secured: bool = False


class MemberSeen(msgspec.Struct, frozen=True):
    """One member, as the node that was asked knows it. `peer` is HOST:PORT."""

    id: str = ""
    name: str = ""
    peer: str = ""
    state: str = ""


class ClusterSeen(msgspec.Struct, frozen=True):
    """The answer to `GET /v1/cluster`, as far as it is looked at here."""

    node: NodeSeen = NodeSeen()
    members: tuple[MemberSeen, ...] = ()


async def examine(url: str, tokens: Sequence[str] = ()) -> list[Check]:
    """All checks for the node at `url` and the network around this machine, in 5 s at most. Never raises for a fault.

    A node on another machine wants the token of its cluster key, one of `tokens`.

    The network is looked at from this machine, so it should be one that a node runs on. Nothing is sent on an interface
    that the node does not listen on: for a node on loopback, or none at all, that is loopback alone.
    """
    cluster = await ask_cluster(url, tokens)
    host = cluster.node.peer.rpartition(":")[0].strip("[]") if isinstance(cluster, ClusterSeen) else ""
    places = announced("127.0.0.1" if not host or is_loopback(host) else "0.0.0.0", present_addresses())
    echoes, claims = await asyncio.gather(
        asyncio.gather(*(echo(place) for place in places)), hear_nodes(LISTEN_S, present=places)
    )
    own = cluster.node.id if isinstance(cluster, ClusterSeen) else ""
    others = [claim for claim in claims if claim.id != own]
    dials = await asyncio.gather(*(dial(claim.address) for claim in others))
    reached = [claim for claim, seconds in zip(others, dials, strict=True) if not isinstance(seconds, str)]
    return [
        judge_node(url, cluster),
        *judge_key(cluster),
        *judge_interfaces(own, places, claims),
        *(judge_echo(place, error) for place, error in zip(places, echoes, strict=True)),
        judge_others(cluster, others),
        *(judge_dial(claim, seconds) for claim, seconds in zip(others, dials, strict=True)),
        *judge_agreement(cluster, claims),
        *judge_members(cluster),
        *judge_refused(cluster, reached),
    ]


async def ask_cluster(url: str, tokens: Sequence[str] = ()) -> ClusterSeen | str:
    """What the node at `url` says of its cluster, or why it says nothing. Tokens are tried until one is good."""
    seen: ClusterSeen | str = ""
    for headers in [{"Authorization": f"Bearer {token}"} for token in tokens] or [{}]:
        seen = await _ask_cluster(url, headers)
        if not isinstance(seen, str) or not seen.startswith(NEEDS_TOKEN):
            break
    return seen


async def _ask_cluster(url: str, headers: Mapping[str, str]) -> ClusterSeen | str:
    timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT_S)
    where = f"{url.rstrip('/')}/v1/cluster"
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(where, headers=headers, allow_redirects=False) as answer,
        ):
            if answer.status == 401:
                return f"{NEEDS_TOKEN} (HTTP status 401)"
            if answer.status != 200:
                return f"HTTP status {answer.status}"
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > CLUSTER_BYTES_MAX:
                    return f"an answer of more than {CLUSTER_BYTES_MAX} bytes"
            return msgspec.json.decode(body, type=ClusterSeen)
    except TimeoutError:
        return f"no answer within {HTTP_TIMEOUT_S:g} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:  # a ValueError is what a bad url or body raises
        return in_words(error)


async def dial(address: tuple[str, int]) -> float | str:
    """The seconds that a TCP connection takes, or why there is none."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            _, writer = await asyncio.open_connection(*address)
    except TimeoutError:
        return f"no answer within {DIAL_TIMEOUT_S:g} s"
    except OSError as error:
        return REFUSED if isinstance(error, ConnectionRefusedError) else str(error)
    seconds = loop.time() - begin
    writer.close()
    return seconds


def judge_node(url: str, cluster: ClusterSeen | str) -> Check:
    """Does a node answer?"""
    name = "node answers"
    if isinstance(cluster, str):
        hint = "start edgecache-node on this device, or give its --url"
        if cluster.startswith(NEEDS_TOKEN):
            hint = "give --cluster-key FILE, the file that its node was started with"
        return Check(name, False, f"{url}: {cluster}", hint)
    return Check(name, True, f"{_shown(cluster.node.name)} at {url}, cluster {_shown(cluster.node.cluster)}")


def judge_key(cluster: ClusterSeen | str) -> list[Check]:
    """Is there a cluster key? Nothing to say without a node."""
    if isinstance(cluster, str):
        return []
    name = "cluster key"
    if cluster.node.secured:
        return [Check(name, True, "in use: peers are members by it, over TLS 1.3")]
    if is_loopback(cluster.node.peer.rpartition(":")[0].strip("[]")):
        return [Check(name, None, "none: this machine only")]
    hint = f"edgecache key new FILE, FILE on every device, and each node with {_WITH_KEY} instead of --insecure"
    return [Check(name, None, "none: whoever reaches its ports reads and writes features", hint)]


def judge_interfaces(own: str, places: Sequence[InterfaceAddress], claims: Iterable[Claim]) -> list[Check]:
    """Where is the node announced? Nothing to say without a node."""
    if not own:
        return []
    name = "announced by mDNS"
    heard = {claim.heard_on.address for claim in claims if claim.id == own}
    where = [f"{place.interface} {place.address}" for place in places if place.address in heard]
    if not where:
        hint = f"without --no-mdns, {_FIREWALL}"
        return [Check(name, False, "the node's own announcement is not heard on this machine", hint)]
    if any(not place.is_loopback and place.address in heard for place in places):
        return [Check(name, True, ", ".join(where))]
    hint = f"for others to see it, start it with {_WITH_KEY}, or with --insecure to let anybody in"
    return [Check(name, None, f"{', '.join(where)}: this machine only", hint)]


def judge_echo(place: InterfaceAddress, error: str | None) -> Check:
    """Does multicast work here at all?"""
    name = f"multicast on {place.interface}"
    if error is None:
        return Check(name, True, f"{place.address} hears its own question")
    return Check(name, False, f"{place.address}: {error}", _FIREWALL)


def judge_others(cluster: ClusterSeen | str, others: Sequence[Claim]) -> Check:
    """Are other nodes heard? Members found by a seed are a cluster too, with or without mDNS."""
    name = "other nodes by mDNS"
    if others:
        names = sorted({f"{claim.name} at {claim.address[0]}:{claim.address[1]}" for claim in others})
        return Check(name, True, ", ".join(names))
    hint = (
        "start a node on another device; if one runs: it may listen on loopback only, a firewall may stop UDP port "
        "5353, or the Wi-Fi may isolate its clients (a guest network does). --seed HOST:PORT needs no mDNS"
    )
    alone = isinstance(cluster, str) or len(cluster.members) < 2
    return Check(name, False if alone else None, f"none within {LISTEN_S:g} s", hint)


def judge_dial(claim: Claim, seconds: float | str) -> Check:
    """Can a node that is heard be reached?"""
    host, port = claim.address
    name = f"connect to {claim.name}"
    if seconds == REFUSED:
        return Check(name, False, f"{host}:{port}: refused", "the node there has stopped, or a firewall refuses it")
    if isinstance(seconds, str):
        hint = f"let TCP port {port} through the firewall of {claim.name}; a Wi-Fi may isolate its clients"
        return Check(name, False, f"{host}:{port}: {seconds}", hint)
    detail = f"{host}:{port} in {seconds * 1000:.1f} ms"
    if seconds > SLOW_DIAL_S:
        return Check(name, None, detail, "a slow link: a cable, a nearer access point or Wi-Fi power saving off")
    return Check(name, True, detail)


def judge_agreement(cluster: ClusterSeen | str, claims: Iterable[Claim]) -> list[Check]:
    """Do all that are heard belong together? Nothing to say without a node, or when its announcement is not heard."""
    if isinstance(cluster, str):
        return []
    claims = list(claims)
    mine = cluster.node.cluster
    strangers = sorted({f"{c.name} in {c.cluster}" for c in claims if c.id != cluster.node.id and c.cluster != mine})
    hint = f"nodes join only their own cluster: start them with --cluster {_shown(mine)}"
    name = "same cluster"
    checks = [Check(name, None, ", ".join(strangers), hint) if strangers else Check(name, True, _shown(mine))]
    own = next((claim for claim in claims if claim.id == cluster.node.id), None)
    if own is not None:
        version = own.protocol_version
        other = sorted({f"{c.name} speaks {c.protocol_version}" for c in claims if c.protocol_version != version})
        name = "same protocol version"
        hint = "bring all nodes to one version of edgecache"
        checks.append(Check(name, False, ", ".join(other), hint) if other else Check(name, True, str(version)))
    return checks


def judge_members(cluster: ClusterSeen | str) -> list[Check]:
    """Are the members alive? Nothing to say without a node."""
    if isinstance(cluster, str):
        return []
    checks = []
    for member in cluster.members:
        ok = {"alive": True, "left": None}.get(member.state, False)
        hint = "" if ok is not False else "is the device on, and its node running? see 'connect to' above"
        checks.append(Check(f"member {_shown(member.name)}", ok, _shown(f"{member.state}, {member.peer}"), hint))
    return checks


def judge_refused(cluster: ClusterSeen | str, reached: Iterable[Claim]) -> list[Check]:
    """Is somebody of this cluster here who is no member? Nothing to say without a node."""
    if isinstance(cluster, str):
        return []
    members = {member.id for member in cluster.members}
    hint = "the same --cluster-key FILE on both, or on neither? The log of each says why it refused the other"
    return [
        Check(f"{claim.name} is a member", False, "it is reached and announces this cluster, and is no member", hint)
        for claim in reached
        if claim.cluster == cluster.node.cluster and claim.id not in members
    ]


def _shown(text: str) -> str:
    """`text` as a terminal may have it. Names in claims print already; what a node says of others may be anything."""
    return text if text.isprintable() else ascii(text)
