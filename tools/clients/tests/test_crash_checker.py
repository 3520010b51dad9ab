"""The crash test's own check must see every way in which a broker can break its word."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from crash_load import check  # noqa: E402

ACKED = SimpleNamespace(acked=[{0: 0, 1: 1, 2: 2}])


def test_what_was_acknowledged_and_more_is_right():
    assert check(ACKED, [[(0, 0), (1, 1), (2, 2)]]) == []
    assert check(ACKED, [[(0, 0), (1, 1), (2, 2), (3, 3)]]) == []


@pytest.mark.parametrize(
    "read",
    [
        [(0, 0), (1, 1)],
        [(0, 0), (2, 2)],
        [(0, 0), (1, 1), (2, 2), (3, 2)],
        [(0, 0), (1, 2), (2, 1)],
        [(0, 0), (1, 1), (3, 2)],
        [(0, 0), (1, 1), (2, 2), (3, 4), (4, 4)],
        [(0, 0), (1, 1), (2, 2), (3, 5), (4, 4)],
    ],
    ids=["tail lost", "hole", "twice", "swapped", "renumbered", "unacked twice", "unacked swapped"],
)
def test_a_broken_promise_is_seen(read):
    assert check(ACKED, [read])
