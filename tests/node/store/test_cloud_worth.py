"""Whether asking the cloud pays, on made-up time."""

from __future__ import annotations

from edgecache.node.store.cloud_worth import FADES_S, CloudWorth


def asked(times: int, hit_share: float, hit_s: float, miss_s: float) -> CloudWorth:
    worth, every = CloudWorth(), round(1 / hit_share) if hit_share else times + 1
    for number in range(1, times + 1):
        is_hit = number % every == 0
        worth.answered(0.0, hit_s if is_hit else miss_s, is_hit=is_hit)
    return worth


def test_a_slow_encoder_asks_a_cloud_that_has_something_and_a_fast_one_does_not() -> None:
    worth = asked(400, hit_share=0.2, hit_s=0.1, miss_s=0.05)
    assert worth.pays(0.0, instead_s=3.0)
    assert not worth.pays(0.0, instead_s=0.06)


def test_a_cloud_that_never_has_it_is_not_worth_its_round_trips() -> None:
    assert not asked(400, hit_share=0, hit_s=0.1, miss_s=0.05).pays(0.0, instead_s=3.0)


def test_what_is_sure_to_be_there_is_worth_asking_for_where_it_is_faster_than_encoding() -> None:
    worth = asked(400, hit_share=0.01, hit_s=0.1, miss_s=0.05)
    assert worth.pays(0.0, instead_s=0.2, is_known=True)
    assert not worth.pays(0.0, instead_s=0.05, is_known=True)


def test_a_cloud_that_became_slow_is_not_waited_for() -> None:
    worth = asked(50, hit_share=0.5, hit_s=0.05, miss_s=0.05)
    assert worth.pays(0.0, instead_s=0.5)
    for _ in range(10):
        worth.gave_up(0.0, seconds=0.5)
    assert not worth.pays(0.0, instead_s=0.5)


def test_a_wait_given_up_early_says_nothing_of_a_cloud_known_to_take_longer() -> None:
    worth = asked(50, hit_share=0.5, hit_s=0.4, miss_s=0.4)
    before = worth.hit_s(0.0)
    worth.gave_up(0.0, seconds=0.01)
    assert worth.hit_s(0.0) == before


def test_what_was_learnt_fades_so_that_it_is_tried_again() -> None:
    worth = asked(400, hit_share=0, hit_s=0.1, miss_s=5.0)
    assert not worth.pays(FADES_S, instead_s=1.0)
    assert worth.pays(12 * FADES_S, instead_s=1.0)
