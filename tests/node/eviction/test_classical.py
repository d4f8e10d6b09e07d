"""node/eviction/: what each of the published policies is known for."""

from __future__ import annotations

import random

import pytest
from edgecache.node.eviction.arc import ARC
from edgecache.node.eviction.belady import Belady
from edgecache.node.eviction.fifo import FIFO
from edgecache.node.eviction.lfu import LFU
from edgecache.node.eviction.lirs import LIRS
from edgecache.node.eviction.lru import LRU
from edgecache.node.eviction.lru_k import LOOK_MIN, LRUK
from edgecache.node.eviction.policy import EvictionPolicy
from edgecache.node.eviction.s3_fifo import S3FIFO
from edgecache.node.eviction.sieve import Sieve
from edgecache.node.eviction.slots import TIME_MAX
from edgecache.node.eviction.two_q import TwoQ
from edgecache.node.eviction.w_tinylfu import WTinyLFU

Policy = EvictionPolicy[str]


def victims(policy: Policy, uses: str, capacity: int) -> str:
    """The entries that go while `uses`, a letter each, are answered."""
    held: set[str] = set()
    gone = ""
    for key in uses:
        if key in held:
            policy.hit(key)
            continue
        if len(held) == capacity:
            victim = policy.evict()
            held.remove(victim)
            gone += victim
        policy.admit(key)
        held.add(key)
    return gone


def hits(policy: EvictionPolicy[int], uses: list[int], capacity: int) -> int:
    held: set[int] = set()
    count = 0
    for key in uses:
        if key in held:
            count += 1
            policy.hit(key)
            continue
        if len(held) == capacity:
            held.remove(policy.evict())
        policy.admit(key)
        held.add(key)
    return count


def scanned(rounds: int = 60, scan: int = 15) -> list[int]:
    """Ten entries used again and again, and between the rounds a scan of what never comes back."""
    once = iter(range(1000, 1_000_000))
    return [use for _ in range(rounds) for use in [*range(10), *range(10), *(next(once) for _ in range(scan))]]


def test_fifo_does_not_care_for_uses() -> None:
    assert victims(FIFO(), "abcaaad", 3) == "a"


def test_lru_spares_what_was_used_last() -> None:
    assert victims(LRU(), "abcad", 3) == "b"


def test_lfu_spares_what_was_used_most_and_among_equals_what_was_used_last() -> None:
    assert victims(LFU(), "aaabbbccd", 3) == "c"
    assert victims(LFU(), "aabbccabcd", 3) == "a"


def test_lru_2_takes_the_oldest_second_last_use() -> None:
    assert victims(LRUK(2, correlated_share=0.0), "aabcbcad", 3) == "a"


def test_lru_2_takes_uses_in_quick_succession_for_one() -> None:
    assert victims(LRUK(2, correlated_share=0.0), "abcbcaabcd", 3) == "b"
    assert victims(LRUK(2, correlated_share=0.4), "abcbcaabcd", 3) == "a"


def test_lru_2_spares_what_was_used_just_now() -> None:
    assert victims(LRUK(2, correlated_share=0.4), "aabbcd", 3) == "a"  # c has one use, but a chance for a second


def test_lru_2_remembers_the_uses_of_what_it_evicted() -> None:
    assert victims(LRUK(2, correlated_share=0.0), "abcade", 2) == "abcd"
    assert victims(LRUK(2, correlated_share=0.0, history_per_entry=0), "abcade", 2) == "abca"


def test_lru_3_wants_three_uses() -> None:
    assert victims(LRUK(2, correlated_share=0.0), "aaabbcbcd", 3) == "a"
    assert victims(LRUK(3, correlated_share=0.0), "aaabbcbcd", 3) == "c"


def plain_lru_k(k: int, share: float, uses: list[int], capacity: int) -> list[int]:
    """Figure 2.1 of O'Neil's paper with dictionaries, and a history without bound: the victims.

    Whose period is over is looked up as often as `LRUK` does it.
    """
    history: dict[int, list[int]] = {}
    last: dict[int, int] = {}
    held: dict[int, None] = {}
    gone: list[int] = []
    looked = look_at = 0
    for now, key in enumerate(uses, 1):
        if key in held:
            if now - last[key] > int(share * len(held)):
                burst = last[key] - history[key][0]
                history[key] = [now, *(use + burst if use else 0 for use in history[key][: k - 1])]
            last[key] = now
            continue
        if len(held) == capacity:
            if now - 1 >= look_at:
                looked = now - 1 - int(share * len(held))
                look_at = now - 1 + LOOK_MIN
            ripe = [other for other in held if last[other] <= looked]
            victim = min(ripe, key=lambda other: (history[other][k - 1], last[other]), default=None)
            if victim is None:
                victim = min(held, key=lambda other: last[other])
            del held[victim]
            gone.append(victim)
        history[key] = [now, *history.get(key, [0] * k)[: k - 1]]
        last[key] = now
        held[key] = None
    return gone


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_lru_k_is_the_papers(k: int, share: float) -> None:
    rng = random.Random(k)
    uses = [min(int(rng.paretovariate(0.5)), 900) for _ in range(8000)]
    policy: LRUK[int] = LRUK(k, share, history_per_entry=50)
    gone: list[int] = []
    for key in uses:
        if key in policy:
            policy.hit(key)
            continue
        if len(policy) == 150:
            gone.append(policy.evict())
        policy.admit(key)
    policy.check()
    assert gone == plain_lru_k(k, share, uses, 150)


def test_lru_2_outlives_its_clock() -> None:
    early: LRUK[int] = LRUK(2)
    late: LRUK[int] = LRUK(2)
    late._now = TIME_MAX - 5000
    rng = random.Random(4)
    for _ in range(20_000):
        key = min(int(rng.paretovariate(0.6)), 200)
        if key in early:
            early.hit(key)
            late.hit(key)
            continue
        if len(early) == 40:
            assert early.evict() == late.evict()
        early.admit(key)
        late.admit(key)
    late.check()
    assert late._now < TIME_MAX - 5000


def test_2q_keeps_for_long_only_what_returns_after_it_left() -> None:
    policy: TwoQ[str] = TwoQ(4)
    assert victims(policy, "aaabcde", 4) == "a"  # used thrice as a newcomer: no merit
    policy.evict()
    policy.admit("a")
    for key in "fghij":
        policy.evict()
        policy.admit(key)
    assert "a" in policy


def test_scan_resistant_policies_bear_a_scan() -> None:
    uses = scanned()
    lru = hits(LRU(), uses, 20)
    assert lru == 600  # each entry's second use of a round, and none of the first
    scan_proof: list[EvictionPolicy[int]] = [TwoQ(20), LIRS(20), S3FIFO(20), WTinyLFU(20), ARC(20), LRUK(2)]
    for policy in scan_proof:
        assert hits(policy, uses, 20) > 1.1 * lru, policy


def test_arc_gives_room_to_the_list_whose_ghost_returns() -> None:
    policy: ARC[str] = ARC(4)
    victims(policy, "aabbcdef", 4)
    assert policy._recent_target == 0.0
    policy.evict()
    policy.admit("c")  # lost from the entries seen once
    assert policy._recent_target >= 1.0
    policy.check()


def test_lirs_keeps_part_of_a_loop_larger_than_itself() -> None:
    loop = list(range(25)) * 20
    assert hits(LRU(), loop, 20) == 0
    assert hits(LIRS(20), loop, 20) > 0.7 * hits(Belady(loop), loop, 20)


def test_sieve_leaves_survivors_where_they_are() -> None:
    assert victims(Sieve(), "abcdab" + "efg", 4) == "cde"  # the hand goes on; a and b are behind it


def test_s3_fifo_takes_one_hit_wonders_from_the_small_queue_and_ghosts_into_the_main_one() -> None:
    policy: S3FIFO[int] = S3FIFO(20)
    hits(policy, list(range(40)), 20)
    assert 18 <= len(policy._main) <= 20
    assert 39 in policy
    ghost = policy.evict()
    policy.admit(ghost)
    assert ghost in policy._main


def test_s3_fifo_forgets_a_ghost_when_so_many_others_came_after_it() -> None:
    policy: S3FIFO[int] = S3FIFO(20)
    hits(policy, list(range(40)), 20)
    ghost = policy.evict()
    for key in range(100, 130):
        policy.admit(key)
        policy.evict()
    policy.admit(ghost)
    assert ghost not in policy._main


def test_w_tinylfu_lets_a_newcomer_in_for_its_frequency_alone() -> None:
    policy: WTinyLFU[int] = WTinyLFU(10)
    hits(policy, list(range(10)) * 3, 10)
    hits_of_the_many = [10] * 6 + [11]
    held = set(range(10))
    for key in hits_of_the_many:
        if key in held:
            policy.hit(key)
        else:
            held.remove(policy.evict())
            policy.admit(key)
            held.add(key)
    assert 10 in policy
    assert 11 in policy


def test_belady_takes_what_is_needed_last() -> None:
    assert victims(Belady("abcdabxacb"), "abcdabxacb", 3) == "cda"


def test_belady_is_as_good_as_trying_everything() -> None:
    rng = random.Random(5)
    for _ in range(50):
        uses = [rng.randrange(5) for _ in range(10)]
        assert hits(Belady(uses), uses, 2) == _most_hits(uses, frozenset(), 2)


def _most_hits(uses: list[int], held: frozenset[int], capacity: int) -> int:
    if not uses:
        return 0
    first, rest = uses[0], uses[1:]
    if first in held:
        return 1 + _most_hits(rest, held, capacity)
    if len(held) < capacity:
        return _most_hits(rest, held | {first}, capacity)
    return max(_most_hits(rest, held - {victim} | {first}, capacity) for victim in sorted(held))
