"""What a node has counted since it started."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..protocol.features import Source


@dataclass(slots=True)
class Stats:
    """Counters; they only grow."""

    requests: int = 0
    """Questions for features, one for each key asked for."""
    hits: dict[Source, int] = field(
        default_factory=lambda: dict.fromkeys((Source.MEMORY, Source.DISK, Source.PEER, Source.CLOUD), 0)
    )
    """Questions answered, by the tier that had the features."""
    misses: int = 0
    """Questions that no tier could answer, whether then encoded or not."""
    encodes: int = 0
    """Images that the local encoder was run on, and answered."""
    encode_failures: int = 0
    converted: int = 0
    """Questions answered by old features, converted."""
    coalesced: int = 0
    """Questions that joined an equal one under way."""
    puts: int = 0
    """Features stored on a user's word."""
    moved: int = 0
    """Features brought to their new holders after members had changed."""
    bytes_in: int = 0
    """Payload bytes received from peers."""
    bytes_out: int = 0
    """Payload bytes sent to peers."""
    rejected_payloads: int = 0
    """Payloads from peers that failed a check."""
    protocol_errors: int = 0
    """Peer connections closed for what the peer sent."""
    refused_handshakes: int = 0
    """Peer connections closed at the handshake: another cluster, key, protocol or node."""
    refused_datagrams: int = 0
    """Datagrams that were not sealed with the cluster key."""

    def hit_ratios(self) -> dict[str, float | None]:
        """Of the questions that have been answered, the share that each tier answered; None before the first."""
        answered = sum(self.hits.values()) + self.misses
        return {str(source): count / answered if answered else None for source, count in self.hits.items()}

    def hit_ratio(self) -> float | None:
        """The same for all of them together."""
        hits = sum(self.hits.values())
        return hits / (hits + self.misses) if hits + self.misses else None
