"""Which encoders this cluster knows, and which version of each is current. Pure.

A request may name an encoder and version, or leave either out; `resolve` finds the one identity that it means, or says
why there is none. Identities are learnt from the node's own encoder, from features that are put, and from peers.

An invalidation makes one version of a name current: older features are gone from then on. Each carries a counter that
grows by one over the highest seen (Lamport, "Time, Clocks, and the Ordering of Events", CACM 1978), so that all nodes
agree on the last word, whatever order they hear them in and whatever their clocks say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..protocol.errors import EdgeCacheError, InvalidValue
from ..protocol.keys import EncoderIdentity

if TYPE_CHECKING:
    from ..protocol.payload import Payload

IDENTITIES_MAX = 64
COUNTER_MAX = 2**53


class UnknownEncoder(EdgeCacheError):
    """Nobody has told this node of such an encoder, so nobody can hold its features."""


class AnotherVersionIsCurrent(EdgeCacheError):
    """The request names a version that is not the current one."""


@dataclass(frozen=True, slots=True, order=True)
class Current:
    """An invalidation: from `counter` on, `version` is the current one. The greater wins."""

    counter: int
    version: str


class Versions:
    """What is known of encoders on one node."""

    def __init__(self, own: EncoderIdentity | None = None) -> None:
        self.own: EncoderIdentity | None = None
        self.own_shape: tuple[int, int] | None = None
        self.changes = 0
        """How often something of what is known to all has changed."""
        self._known: dict[bytes, EncoderIdentity] = {}
        self._current: dict[str, Current] = {}
        if own is not None:
            self.use(own)

    def use(self, own: EncoderIdentity, shape: tuple[int, int] | None = None) -> None:
        """The node's own encoder turns out to be `own`: what a request means that names none.

        `shape` is the (tokens, dim) of all that it makes.
        """
        self.own = own
        self.own_shape = shape
        self.learn(own)

    def fits(self, payload: Payload) -> bool:
        """Whether `payload` has the shape of its encoder's features, as far as that is known here."""
        is_own = self.own_shape is not None and payload.key.encoder == self.own
        return not is_own or (payload.tokens, payload.dim) == self.own_shape

    def learn(self, identity: EncoderIdentity) -> bool:
        """`identity` exists; False if that is no news. At most 64 are kept, the oldest acquaintance goes first."""
        if identity.digest in self._known:
            return False
        self._known[identity.digest] = identity
        self.changes += 1
        while len(self._known) > IDENTITIES_MAX:
            oldest = next(digest for digest, known in self._known.items() if known != self.own)
            del self._known[oldest]
        return True

    def forget(self, digest: bytes) -> None:
        """The identity of that digest, if it is not the node's own, is as if nobody had told of it."""
        if (known := self._known.get(digest)) is not None and known != self.own:
            del self._known[digest]
            self.changes += 1

    def known(self) -> list[EncoderIdentity]:
        """Every identity, by name and version."""
        return sorted(self._known.values(), key=lambda known: (known.name, known.version, known.fingerprint))

    # -- which one a request means ------------------------------------------------------------------------------

    def resolve(self, name: str | None, version: str | None, *, declare: bool = False) -> EncoderIdentity:
        """The identity that a request means by `name` and `version`, either of which it may leave out.

        With `declare`, a name and version that nobody has told of are a new encoder, on the user's word. InvalidValue
        when more than one is meant; UnknownEncoder; AnotherVersionIsCurrent.
        """
        if name is None:
            if self.own is None:
                names = sorted({known.name for known in self._known.values()})
                if not names:
                    if declare:
                        raise InvalidValue("encoder: missing, and this node runs none: say encoder=NAME and version=V")
                    raise UnknownEncoder("this node runs no encoder and has not heard of any")
                if len(names) > 1:
                    raise InvalidValue(f"encoder: missing, and this node knows {', '.join(names)}: say encoder=NAME")
                name = names[0]
            else:
                name = self.own.name
        is_named = version is not None
        if version is None:
            version = self._version_of(name, declare)
        self.check_current(name, version)
        if self.own is not None and self.own.name == name:
            if self.own.version == version:
                return self.own
            if name not in self._current:
                raise AnotherVersionIsCurrent(f"{name}: version {version} was asked for, {self.own.version} is current")
        matching = [known for known in self.known() if (known.name, known.version) == (name, version)]
        if len(matching) > 1:
            raise InvalidValue(
                f"{name}@{version}: {len(matching)} encoders with different weights, preprocessing or shape go by it"
            )
        if matching:
            return matching[0]
        if declare:
            return EncoderIdentity.declared(name, version)
        if is_named or name not in self._current:
            raise UnknownEncoder(f"{name}@{version}: this node has not heard of this encoder")
        raise UnknownEncoder(f"{name}: version {version} is current, and this node knows of no encoder that makes it")

    def _version_of(self, name: str, declare: bool) -> str:
        if name in self._current:
            return self._current[name].version
        if self.own is not None and self.own.name == name:
            return self.own.version
        versions = sorted({known.version for known in self._known.values() if known.name == name})
        if len(versions) > 1:
            raise InvalidValue(f"version: missing, and {name} is known as {', '.join(versions)}: say version=V")
        if versions:
            return versions[0]
        if declare:
            raise InvalidValue(f"version: missing, and {name} is not known here: say version=V")
        raise UnknownEncoder(f"{name}: this node has not heard of this encoder")

    # -- which one is current -----------------------------------------------------------------------------------

    def check_current(self, name: str, version: str) -> None:
        """Raise AnotherVersionIsCurrent when an invalidation has left `version` of `name` behind."""
        current = self._current.get(name)
        if current is not None and current.version != version:
            raise AnotherVersionIsCurrent(f"{name}: version {version} was asked for, {current.version} is current")

    def is_current(self, identity: EncoderIdentity) -> bool:
        """Whether features of `identity` may be answered and kept."""
        current = self._current.get(identity.name)
        return current is None or current.version == identity.version

    def make_current(self, name: str, version: str) -> Current:
        """The user says that `version` of `name` is current from now on; what to tell the others."""
        EncoderIdentity.declared(name, version)  # refuses what cannot be a name or a version
        highest = max((current.counter for current in self._current.values()), default=0)
        current = Current(min(highest + 1, COUNTER_MAX), version)  # beyond it nobody would believe this node
        self._current[name] = current
        self.changes += 1
        return current

    def hear_current(self, name: str, current: Current) -> bool:
        """A peer says so; False if that is no news. InvalidValue for what no node would say."""
        EncoderIdentity.declared(name, current.version)
        if not 0 < current.counter <= COUNTER_MAX:
            raise InvalidValue(f"invalidation counter {current.counter}: between 1 and {COUNTER_MAX}")
        known = self._current.get(name)
        if known is not None and known >= current:
            return False
        if known is None and len(self._current) >= IDENTITIES_MAX:
            raise InvalidValue(f"more than {IDENTITIES_MAX} encoders have a current version")
        self._current[name] = current
        self.changes += 1
        return True

    def current(self) -> dict[str, Current]:
        """The last word on every name that was ever invalidated."""
        return dict(sorted(self._current.items()))
