"""What came before in a stream."""

from __future__ import annotations

from edgecache.node import similar
from edgecache.node.similar import Similar

A, B, C = (letter * 32 + b"e" * 32 for letter in (b"a", b"b", b"c"))
OTHER = b"d" * 32 + b"f" * 32


def test_each_key_has_the_one_before_it_in_its_stream() -> None:
    known = Similar()
    for stream, key in (("left", A), ("right", C), ("left", B)):
        known.asked(stream, key)
    assert (known.to(A), known.to(B), known.to(C)) == (None, A, None)


def test_another_encoders_and_the_same_again_are_not_like_it() -> None:
    known = Similar()
    for key in (A, OTHER, B, B):
        known.asked("left", key)
    assert (known.to(OTHER), known.to(B)) == (None, None)


def test_it_is_bounded() -> None:
    known = Similar()
    for number in range(3000):
        for letter in (b"a", b"b"):
            known.asked(f"stream {number}", b"%s%031d" % (letter, number) + b"e" * 32)
    assert len(known._last) == similar.STREAMS_MAX
    assert len(known._before) == similar.ASKED_MAX
    assert known.to(b"b%031d" % 2999 + b"e" * 32) == b"a%031d" % 2999 + b"e" * 32
