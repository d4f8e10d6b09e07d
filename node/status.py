"""How a node describes itself: the bodies of GET /v1/cluster and GET /v1/stats, worded here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..protocol import messages
from .link import shown

if TYPE_CHECKING:
    from .link import Address
    from .membership import Member
    from .ring import Ring
    from .stats import Stats
    from .store.tier import DiskTier
    from .store.tiers import Tiers
    from .versions import Versions


# Why features leave memory: to make room; since the device, or the user, has less for them; since another version is
# current; since somebody said so.
EVICTION_REASONS = ("capacity", "pressure", "resized", "version", "forgotten")


def member(
    id: str, name: str, http: Address, peer: Address, state: str, capacity_bytes: int, used_bytes: int, boot: str
) -> dict[str, Any]:
    """One member, this node or another; its bytes are those of its memory and disk together."""
    return {
        "id": id,
        "name": name,
        "http": f"http://{shown(http)}" if http[1] else "",
        "peer": shown(peer),
        "state": state,
        "capacity_bytes": capacity_bytes,
        "used_bytes": used_bytes,
        "boot": boot,
    }


def cluster(
    me: dict[str, Any], others: Iterable[Member], ring: Ring, versions: Versions, *, name: str, is_secured: bool
) -> dict[str, Any]:
    """This node, the members as it sees them (itself too), the ring and the encoders that it has heard of."""
    own = versions.own
    return {
        "node": {
            **me,
            "cluster": name,
            "secured": is_secured,
            "protocol": messages.PROTOCOL_VERSION,
            "encoder": str(own) if own is not None else None,
        },
        "members": [
            me,
            *(
                member(m.id, m.name, m.http, m.peer, str(m.state), m.capacity_bytes, m.used_bytes, m.boot)
                for m in others
            ),
        ],
        "ring": {"copies": ring.copies, "virtual_nodes": ring.virtual_nodes},
        "encoders": [str(known) for known in versions.known()],
    }


def counters(
    stats: Stats,
    store: Tiers,
    *,
    peer_connections: int,
    prefetch: dict[str, Any] | None = None,
    given_bytes: int | None = None,
) -> dict[str, Any]:
    """What this node has counted, and what its tiers hold; `items` and the bytes beside it are those in memory.

    `given_bytes` is what its user gave the memory tier; while the device is short of memory, its capacity is less.
    """
    memory = store.memory
    return {
        "requests": stats.requests,
        "hits": {str(source): count for source, count in stats.hits.items()},
        "hit_ratio": stats.hit_ratio(),
        "hit_ratios": stats.hit_ratios(),
        "misses": stats.misses,
        "encodes": stats.encodes,
        "encode_failures": stats.encode_failures,
        "converted": stats.converted,
        "coalesced": stats.coalesced,
        "puts": stats.puts,
        "moved": stats.moved,
        "evictions": memory.evictions,
        "evictions_by_reason": dict.fromkeys(EVICTION_REASONS, 0) | dict(memory.evicted),
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "rejected_payloads": stats.rejected_payloads,
        "protocol_errors": stats.protocol_errors,
        "refused_handshakes": stats.refused_handshakes,
        "refused_datagrams": stats.refused_datagrams,
        "peer_connections": peer_connections,
        "items": len(memory),
        "used_bytes": memory.used_bytes,
        "capacity_bytes": memory.capacity_bytes,
        "given_bytes": memory.capacity_bytes if given_bytes is None else given_bytes,
        "resident_bytes": memory.resident_bytes,
        "pinned_bytes": memory.pinned_bytes,
        "utilisation": memory.utilisation,
        "eviction": dict(memory.policy_told()),
        "prefetch": prefetch or {},
        "tiers": {
            name: {
                "items": len(lower.tier),
                "used_bytes": lower.tier.used_bytes,
                "capacity_bytes": lower.tier.capacity_bytes,
                "queued_bytes": lower.tier.queued_bytes,
                "reads": lower.reads,
                **asdict(lower.counters),
                **(_disk(store.disk.tier) if store.disk is not None and name == "disk" else {}),
                **(store.cloud_told if name == "cloud" else {}),
            }
            for name, lower in store.lower
        },
    }


def _disk(tier: DiskTier) -> dict[str, int]:
    """What the disk alone tells: `used_bytes` of its `file_bytes` hold features, the rest is room for more."""
    return {"evictions": tier.evictions, "file_bytes": tier.file_bytes}
