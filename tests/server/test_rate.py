"""Callers are admitted at a mean rate (edgefl_server/host/rate.py)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgefl_server.host.rate import RateLimit


def test_some_come_at_once_and_then_at_the_mean_rate() -> None:
    rate = RateLimit(per_second=2.0, at_once=3)
    # Three at once; half a second later one more, since two a second are admitted; and never more than three.
    at_once = [rate.admits("a", 0.0) for _ in range(4)]
    later = [rate.admits("a", at) for at in (0.4, 0.6, 0.6)]
    assert (at_once, later) == ([True] * 3 + [False], [False, True, False])
    assert [rate.admits("a", 100.0) for _ in range(4)] == [True] * 3 + [False]


def test_callers_do_not_take_from_each_other() -> None:
    rate = RateLimit(per_second=1.0, at_once=1)
    assert rate.admits("a", 0.0)
    assert rate.admits("b", 0.0)
    assert not rate.admits("a", 0.0)


def test_however_many_callers_there_are_little_is_remembered() -> None:
    rate = RateLimit(per_second=1.0, at_once=1)
    for caller in range(20_000):
        rate.admits(caller, 0.0)
    assert not rate.admits(19_999, 0.0)
    assert rate.admits(0, 0.0), "who came long ago is a stranger again"


@given(st.lists(st.floats(0.0, 2.0), min_size=1, max_size=60), st.floats(0.1, 50.0), st.integers(1, 20))
def test_no_more_are_admitted_than_the_bucket_held_and_time_added(
    pauses: list[float], per_second: float, at_once: int
) -> None:
    rate, now, admitted = RateLimit(per_second, at_once), 0.0, 0
    for pause in pauses:
        now += pause
        admitted += rate.admits("a", now)
    assert admitted <= at_once + per_second * now + 1e-6
