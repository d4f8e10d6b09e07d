"""What a lookup answers, and how far it may look."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ..protocol.features import Features

if TYPE_CHECKING:
    from ..protocol.features import Source
    from ..protocol.keys import EncoderIdentity
    from ..protocol.payload import Payload


class Reach(StrEnum):
    """How far a request may look."""

    LOCAL = "local"
    CLUSTER = "cluster"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Found:
    """The payload, which step had it, and the name of the node that held or made it."""

    payload: Payload
    source: Source
    node: str
    converted_from: EncoderIdentity | None = None
    """The encoder whose features were told as those asked for, by a fitted map; None: they are what was asked for."""

    def features(self) -> Features:
        """The payload as a user gets it: decoded."""
        payload = self.payload
        told = None if self.converted_from is None else str(self.converted_from)
        return Features(
            payload.array(), payload.key, payload.fidelity, payload.codec.label, self.source, self.node, told
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a put: on how many nodes the payload now is, and the payload as it is there."""

    copies: int
    payload: Payload
