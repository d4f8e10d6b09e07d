"""node/versions.py: which encoder a request means, and which version is current."""

from __future__ import annotations

import pytest
from edgecache.node.versions import IDENTITIES_MAX, AnotherVersionIsCurrent, Current, UnknownEncoder, Versions
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.keys import EncoderIdentity

TINY = EncoderIdentity("edgecache/tiny", "1", bytes(32))
MINE = EncoderIdentity.declared("mine", "1")


def test_without_a_name_the_nodes_own_encoder_is_meant() -> None:
    assert Versions(TINY).resolve(None, None) == TINY
    assert Versions(TINY).resolve(None, "1") == TINY


def test_another_version_of_the_own_encoder_is_not_current() -> None:
    with pytest.raises(AnotherVersionIsCurrent, match="version 2 was asked for, 1 is current"):
        Versions(TINY).resolve(None, "2")


def test_a_node_without_an_encoder_means_the_only_one_it_has_heard_of() -> None:
    versions = Versions()
    with pytest.raises(UnknownEncoder):
        versions.resolve(None, None)
    versions.learn(MINE)
    assert versions.resolve(None, None) == MINE
    versions.learn(TINY)
    with pytest.raises(InvalidValue, match="edgecache/tiny, mine"):
        versions.resolve(None, None)


def test_a_declared_encoder_is_the_same_on_every_node() -> None:
    assert Versions().resolve("mine", "1", declare=True) == Versions(TINY).resolve("mine", "1", declare=True) == MINE


def test_an_encoder_that_nobody_told_of_is_unknown_unless_it_is_declared() -> None:
    with pytest.raises(UnknownEncoder, match="mine@1"):
        Versions(TINY).resolve("mine", "1")


def test_a_missing_version_is_the_only_one_known() -> None:
    versions = Versions(TINY)
    versions.learn(MINE)
    assert versions.resolve("mine", None) == MINE
    versions.learn(EncoderIdentity.declared("mine", "2"))
    with pytest.raises(InvalidValue, match="1, 2"):
        versions.resolve("mine", None)


def test_two_encoders_of_one_name_and_version_are_never_taken_for_each_other() -> None:
    versions = Versions()
    versions.learn(EncoderIdentity("vit", "1", b"a" * 32))
    versions.learn(EncoderIdentity("vit", "1", b"b" * 32))
    with pytest.raises(InvalidValue, match="2 encoders"):
        versions.resolve("vit", "1")


def test_an_invalidation_leaves_older_versions_behind() -> None:
    versions = Versions(TINY)
    versions.learn(MINE)
    versions.make_current("mine", "2")
    assert not versions.is_current(MINE)
    with pytest.raises(AnotherVersionIsCurrent):
        versions.resolve("mine", "1")
    assert versions.resolve("mine", "2", declare=True) == EncoderIdentity.declared("mine", "2")
    with pytest.raises(UnknownEncoder, match="mine: version 2 is current, and this node knows of no encoder"):
        versions.resolve("mine", None)


def test_all_nodes_agree_on_the_last_word_whatever_order_they_hear_it_in() -> None:
    first, second = Current(1, "2"), Current(2, "1")
    one, other = Versions(), Versions()
    assert one.hear_current("mine", first)
    assert one.hear_current("mine", second)
    assert other.hear_current("mine", second)
    assert not other.hear_current("mine", first)  # an old one, replayed
    assert one.current() == other.current() == {"mine": second}


def test_a_new_word_is_later_than_every_word_heard() -> None:
    versions = Versions()
    versions.hear_current("other", Current(41, "7"))
    assert versions.make_current("mine", "2") == Current(42, "2")


@pytest.mark.parametrize("counter", [0, -1, 2**63])
def test_an_absurd_counter_is_refused(counter: int) -> None:
    with pytest.raises(InvalidValue, match="counter"):
        Versions().hear_current("mine", Current(counter, "2"))


def test_acquaintances_are_bounded_and_the_own_encoder_stays() -> None:
    versions = Versions(TINY)
    for number in range(3 * IDENTITIES_MAX):
        versions.learn(EncoderIdentity.declared("mine", str(number)))
    assert len(versions.known()) == IDENTITIES_MAX
    assert TINY in versions.known()
