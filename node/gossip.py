"""What one node tells another of what it knows: members, encoders and current versions. Pure.

Every ping carries a digest of all that; where two digests differ, one asks for the other's state and merges it. A
member told of is worth a call, no more: nobody is taken for alive, or dead, on somebody else's word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

from ..protocol import messages
from ..protocol.errors import InvalidValue, RemoteProtocolError
from ..protocol.frames import HEAD_BYTES_MAX
from ..protocol.keys import EncoderIdentity
from .interfaces import is_loopback
from .sightings import Sighting
from .versions import Current

if TYPE_CHECKING:
    from .membership import Membership
    from .versions import Versions

_LIST_HEADER_BYTES = 5  # MessagePack's for the longest list


class Gossip:
    """Sums up and takes in what nodes tell each other, for one node."""

    def __init__(self, membership: Membership, versions: Versions, *, tells_loopback: bool) -> None:
        """`tells_loopback`: whether members met on 127.0.0.1 can be met there by whoever hears of them."""
        self._tells_loopback = tells_loopback
        self._membership = membership
        self._versions = versions

    def digest(self) -> bytes:
        """16 bytes that differ when the knowledge does."""
        known = [encoder.digest for encoder in self._versions.known()]
        current = [f"{name}\0{now.version}\0{now.counter}".encode() for name, now in self._versions.current().items()]
        return self._membership.digest() + xxhash.xxh3_64_digest(b"\0\0".join([*known, b"", *current]))

    def state(self) -> messages.State:
        """All that this node knows; of the members that it hears itself as many as a message holds."""
        told = [
            messages.Member(member.id, member.boot, member.name, *member.peer)
            for member in self._membership.all()
            if self._membership.is_alive(member.id) and (self._tells_loopback or not is_loopback(member.peer[0]))
        ]
        encoders = [messages.Encoder(known.name, known.version, known.fingerprint) for known in self._versions.known()]
        state = messages.State([], encoders, self.current())
        room_bytes = HEAD_BYTES_MAX - len(messages.encode(state)) - _LIST_HEADER_BYTES
        for member in told:
            room_bytes -= len(messages.encode(member))
            if room_bytes < 0:
                break
            state.members.append(member)
        return state

    def current(self) -> list[messages.CurrentVersion]:
        """The current versions alone: what is said at once after an invalidation."""
        return [
            messages.CurrentVersion(name, now.version, now.counter) for name, now in self._versions.current().items()
        ]

    def merge(self, state: messages.State) -> tuple[list[Sighting], list[str]]:
        """Take in a peer's state: whom to call, and the encoders whose older features are gone from now on.

        RemoteProtocolError for what no correct peer says.
        """
        too_many = (
            len(state.members) > messages.MEMBERS_MAX
            or len(state.encoders) > messages.ENCODERS_MAX
            or len(state.current) > messages.ENCODERS_MAX
        )
        if too_many:
            raise RemoteProtocolError(
                f"state of {len(state.members)} members, {len(state.encoders)} encoders and {len(state.current)} "
                f"current versions, at most {messages.MEMBERS_MAX}, {messages.ENCODERS_MAX}, {messages.ENCODERS_MAX}"
            )
        try:
            for encoder in state.encoders:
                self._versions.learn(EncoderIdentity(encoder.name, encoder.version, encoder.fingerprint))
            outdated = [
                said.encoder
                for said in state.current
                if self._versions.hear_current(said.encoder, Current(said.counter, said.version))
            ]
        except InvalidValue as error:
            raise RemoteProtocolError(f"state: {error}") from None
        to_call = [
            Sighting(member.id, member.boot, member.name, (member.peer_host, member.peer_port))
            for member in state.members
            if member.id != self._membership.me and member.peer_host and member.peer_port
        ]
        return to_call, outdated
