"""protocol/connection.py: what travels coded, and what does not."""

from __future__ import annotations

import numpy as np
import pytest
from edgecache.protocol.connection import (
    Answered,
    Asked,
    Connection,
    Event,
)
from edgecache.protocol.errors import RemoteProtocolError
from edgecache.protocol.messages import (
    ZSTD,
    Done,
    Found,
    Pace,
    Put,
)

from tests.protocol.pairs import Pair, abled, feed, framed, taken

# -- coding --------------------------------------------------------------------------------------------------------


def _arrive_slowly(connection: Connection, wire: bytes, bytes_per_s: float, began: float) -> list[Event]:
    events, at = [], 0
    while at < len(wire):
        piece = wire[at : at + 4096]
        at += len(piece)
        events += feed(connection, piece, began + at / bytes_per_s)
    return events


@pytest.mark.parametrize("abilities", [ZSTD, ZSTD | 64])
def test_what_comes_slowly_is_coded_from_then_on_in_both_directions(abilities: int) -> None:
    pair = Pair(are_open=False, abilities=abilities)
    pair.up()
    pair.down()
    payload = np.random.default_rng(0).integers(0, 32, 150_000, np.uint8).tobytes()
    sizes = []
    for now in range(4):
        stream = pair.ask(Put(0), deadline=99.0, blob=payload)
        wire = taken(pair.dialer)
        assert _arrive_slowly(pair.dialled, wire, 1e6, now) == [Asked(stream, Put(0), memoryview(payload))]
        pair.dialled.answer(stream, Found(), (payload,), len(payload))
        answer = taken(pair.dialled)
        assert _arrive_slowly(pair.dialer, answer, 1e6, now + 0.5) == [Answered(stream, Found(), memoryview(payload))]
        sizes.append((len(wire), len(answer)))
    assert sizes[0][0] > len(payload)
    assert all(size < 0.7 * len(payload) for size in sizes[-1])


@pytest.mark.parametrize(("mine", "theirs"), [(ZSTD, 0), (0, ZSTD), (ZSTD, 64), (0, 0)])
def test_a_peer_that_does_not_know_coding_is_sent_nothing_coded_and_nothing_of_it(mine: int, theirs: int) -> None:
    pair = Pair(are_open=False)
    pair.dialer = Connection(abled("dialer", mine), 0.0, is_dialer=True)
    pair.dialled = Connection(abled("dialled", theirs), 0.0, is_dialer=False)
    pair.up()
    pair.down()
    payload = bytes(300_000)
    for now in range(3):
        stream = pair.ask(Put(0), deadline=99.0, blob=payload)
        wire = taken(pair.dialer)
        assert len(wire) > len(payload)
        _arrive_slowly(pair.dialled, wire, 1e6, now)
        assert pair.dialled.pending_bytes == 0
        pair.dialled.answer(stream, Done(1))
        pair.down(now + 0.5)


def test_a_peer_that_may_not_code_has_no_pace_to_speak_of() -> None:
    pair = Pair()
    with pytest.raises(RemoteProtocolError, match="Pace from the dialled side"):
        feed(pair.dialer, framed(Pace(1)))
    with pytest.raises(RemoteProtocolError, match="Pace from the dialling side"):
        feed(pair.dialled, framed(Pace(1)))
