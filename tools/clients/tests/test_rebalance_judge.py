"""The judge of the rebalance run finds what it is there to find."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rebalance_judge import Life, Seen, is_stuck_in_its_client, judge, owned

SESSION_US = 1000


def life(name: str, *lines: str, **more: object) -> Life:
    return Life(name, list(lines), **more)


GOOD = [
    life("a", "10 assigned 0 1", "20 read 0 0 5", "30 sent 0 5", "40 committed 0 5", "50 revoked 0"),
    life("b", "60 assigned 0", "70 read 0 5 9", "80 sent 0 9", "90 committed 0 9", "95 closed"),
]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    verdict = judge(GOOD, [Seen(45, 46, 0, 5), Seen(92, 93, 0, 9)], {0: 9}, SESSION_US)
    assert verdict.violations == []
    assert (verdict.assignments, verdict.commits, verdict.read, verdict.repeated) == (3, 2, 9, 0)


def test_two_owners_at_a_time_are_found() -> None:
    early = life("b", "45 assigned 0", "95 closed")
    (violation,) = judge([GOOD[0], early], [], {}, SESSION_US).violations
    assert "belongs to a and b for 5 us" in violation


def test_an_owner_within_a_long_one_is_found_behind_a_short_one() -> None:
    lives = [
        life("a", "10 assigned 0", "90 revoked 0"),
        life("b", "95 assigned 0", "99 revoked 0"),
        life("c", "50 assigned 0", "60 revoked 0"),
        life("d", "70 assigned 0", "80 revoked 0"),
    ]
    assert len(judge(lives, [], {}, SESSION_US).violations) == 2


def test_the_dead_own_nothing() -> None:
    dead = life("a", "10 assigned 0", "20 read 0 0 5", killed_us=40)
    assert judge([dead, life("b", "41 assigned 0", "95 closed")], [], {}, SESSION_US).violations == []
    assert judge([dead, life("b", "39 assigned 0", "95 closed")], [], {}, SESSION_US).violations


def test_who_sleeps_longer_than_a_session_owns_nothing_until_told() -> None:
    asleep = life("a", "10 assigned 0", "2500 lost 0", "2600 assigned 0", "2700 closed", pauses=[(100, 2000)])
    assert owned(asleep, SESSION_US) == [(0, 10, 100), (0, 2600, 2700)]
    awake = life("a", "10 assigned 0", "2500 lost 0", pauses=[(100, 200)])
    assert owned(awake, SESSION_US) == [(0, 10, 2500)]


def test_an_offset_that_goes_back_is_found() -> None:
    (violation,) = judge([], [Seen(1, 2, 0, 7), Seen(3, 4, 0, 6)], {}, SESSION_US).violations
    assert "goes back from 7 to 6" in violation
    # Who asked before the other was told may be told the older one.
    assert judge([], [Seen(1, 5, 0, 7), Seen(3, 4, 0, 6)], {}, SESSION_US).violations == []


def test_a_commit_that_was_acknowledged_and_is_gone_is_found() -> None:
    (violation,) = judge(GOOD, [Seen(45, 46, 0, 4)], {0: 9}, SESSION_US).violations
    assert "a was told 5" in violation
    assert judge(GOOD, [Seen(39, 46, 0, 4)], {0: 9}, SESSION_US).violations == []


def test_a_skipped_record_is_found() -> None:
    skipping = life("b", "60 assigned 0", "70 read 0 6 9", "80 sent 0 9", "95 closed")
    committed, never = judge([GOOD[0], skipping], [], {0: 9}, SESSION_US).violations
    assert "b commits 9" in committed and "nobody has processed 5" in committed
    assert "5 of 9 was never processed" in never


def test_what_is_committed_before_it_was_processed_is_found() -> None:
    hasty = life("b", "60 assigned 0", "65 sent 0 9", "70 read 0 5 9", "95 closed")
    assert len(judge([GOOD[0], hasty], [], {0: 9}, SESSION_US).violations) == 1


def test_records_read_twice_are_counted() -> None:
    again = life("b", "60 assigned 0", "70 read 0 3 9", "95 closed")
    assert judge([GOOD[0], again], [], {0: 9}, SESSION_US).repeated == 2


def test_only_a_close_with_both_callbacks_can_be_stuck_in_the_client() -> None:
    begun = ["10 assigned 0", "20 read 0 0 5", "30 closing"]
    assert is_stuck_in_its_client(life("a", *begun, "31 assigned", "32 sent 0 5", "33 committed 0 5", "34 revoked 0"))
    assert not is_stuck_in_its_client(life("a", *begun))
    assert not is_stuck_in_its_client(life("a", *begun, "31 revoked 0"))
    assert not is_stuck_in_its_client(life("a", *begun, "31 assigned"))
    assert not is_stuck_in_its_client(life("a", "10 assigned 0", "31 assigned", "32 revoked 0"))
