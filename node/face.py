"""What the HTTP face asks of a node: `service.Node` is one, tests may give another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..protocol.keys import EncoderIdentity
    from .lookup import Lookup
    from .versions import Versions


class NodeFace(Protocol):
    """One node, as far as its HTTP face sees it."""

    name: str
    id: str
    lookup: Lookup
    versions: Versions

    async def own_encoder(self) -> EncoderIdentity | None:
        """The identity of the node's encoder, None if it runs none; `versions` knows it from then on.

        Waits while a model that must be read loads; EncoderUnavailable.
        """

    async def ask_cloud_for(self, name: str | None, version: str | None) -> bool:
        """Learn of encoders of that name and version, or of any, from the cloud; whether it told of one."""

    async def introduce(self, encoder: EncoderIdentity) -> None:
        """Have every member know `encoder`, whose features a user has brought, if it is news to this node."""

    async def invalidate(self, name: str, version: str) -> int:
        """Make `version` of encoder `name` current on every member; how many entries went on this node."""

    def is_serving(self) -> tuple[bool, Mapping[str, str]]:
        """Whether the node should be sent requests, and what `/readyz` says of its parts (name -> state)."""

    def cluster(self) -> dict[str, Any]:
        """The body of GET /v1/cluster."""

    def counters(self) -> dict[str, Any]:
        """The body of GET /v1/stats."""
