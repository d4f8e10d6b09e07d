"""What is to be told to everybody, a few times each, until everybody has very likely heard it. Pure.

SWIM's dissemination (Das, Gupta, Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group Membership
Protocol", DSN 2002, section 4.1): rumors ride on messages that are sent anyway, each is told λ·log n times by each
node that hears it, and those told least go first, so that what is new gets around even where much is said.
"""

from __future__ import annotations

import math

# A node tells what it hears this many times · ⌈log10(n + 1)⌉: 4 at 5 nodes, 12 at 200. With a tenth of the datagrams
# lost, a rumor missed a node in none of 1,000 runs of 200 nodes; who misses one is told by the digests.
TOLD_FACTOR = 4
RUMORS_MAX = 1024
RUMOR_BYTES_MAX = 1200
# Most have one size: after so many for which a message has no room left, it is as good as full.
MISFITS_MAX = 4


class Rumors:
    """What one node has to tell. A later rumor about a subject replaces the earlier one."""

    def __init__(self) -> None:
        self._rumors: dict[str, bytes] = {}
        self._told: list[dict[str, None]] = []  # subjects by how often they were told, the oldest first

    def __len__(self) -> int:
        return len(self._rumors)

    def add(self, subject: str, rumor: bytes) -> None:
        """Tell `rumor` from now on. One that no datagram could hold is left to the full exchange."""
        self.drop(subject)
        if len(rumor) > RUMOR_BYTES_MAX:
            return
        if len(self._rumors) >= RUMORS_MAX:
            self.drop(next(subject for told in reversed(self._told) for subject in told))  # the best known
        self._rumors[subject] = rumor
        self._bucket(0)[subject] = None

    def drop(self, subject: str) -> None:
        """Tell it no more. Harmless when it is not there."""
        if self._rumors.pop(subject, None) is not None:
            for told in self._told:
                told.pop(subject, None)

    def take(self, room_bytes: int, members: int) -> list[bytes]:
        """The rumors for one message to one of `members`, at most `room_bytes` together; each counts as told once."""
        times_max = TOLD_FACTOR * math.ceil(math.log10(members + 1))
        taken: list[tuple[str, int]] = []
        misfits = 0
        for subject, times in ((subject, times) for times, told in enumerate(self._told) for subject in told):
            if (size := len(self._rumors[subject])) <= room_bytes:
                room_bytes -= size
                taken.append((subject, times))
            else:
                misfits += 1
                if misfits >= MISFITS_MAX:
                    break
        rumors = [self._rumors[subject] for subject, _ in taken]
        for subject, times in taken:
            del self._told[times][subject]
            if times + 1 < times_max:
                self._bucket(times + 1)[subject] = None
            else:
                del self._rumors[subject]
        return rumors

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself."""
        subjects = [subject for told in self._told for subject in told]
        assert sorted(subjects) == sorted(self._rumors)
        assert len(subjects) <= RUMORS_MAX

    def _bucket(self, times: int) -> dict[str, None]:
        while len(self._told) <= times:
            self._told.append({})
        return self._told[times]
