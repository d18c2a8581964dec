"""How many requests are answered together, and when a batch makes room for those that wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.policy.batching import BatchCosts, batch_size, best_stop

# Four exits.  One sample takes 10 ms from exit to exit, two take 15, four take 20; an answer takes 1.
COSTS = BatchCosts(
    sizes=(1, 2, 4),
    reached=((10.0, 20.0, 30.0, 40.0), (15.0, 30.0, 45.0, 60.0), (20.0, 40.0, 60.0, 80.0)),
    answer=(1.0, 1.0, 1.0),
)
FOREVER = float("inf")


def test_times_between_measured_sizes_lie_on_a_line() -> None:
    assert COSTS.times(2) == (15.0, 30.0, 45.0, 60.0)
    assert COSTS.times(3) == (17.5, 35.0, 52.5, 70.0)
    assert COSTS.answer_time(3) == 1.0


def test_as_many_pay_together_as_take_less_time_each() -> None:
    assert COSTS.most == 4  # (40 + 1) / 1 > (60 + 1) / 2 > (80 + 1) / 4
    in_line = BatchCosts(sizes=(1, 2), reached=((10.0, 40.0), (20.0, 80.0)), answer=(1.0, 2.0))
    assert in_line.most == 1


@pytest.mark.parametrize(
    ("left", "size"),
    [
        ([FOREVER], 1),
        ([FOREVER] * 3, 3),
        ([FOREVER] * 9, 4),
        # Exit 0 and its answer take 11, 16, 18.5 and 21 ms; whoever comes after that is too late.
        ([21.0, 21.0, 21.0, 21.0], 4),
        ([16.0, 17.0, 17.0, 17.0], 2),
        ([15.9, 17.0, 17.0, 17.0], 1),
        ([5.0, 100.0], 1),
        # Together exit 2 each, after 45 + 1 ms.  One after the other: exit e and its answer take 10 e + 11 ms, of which
        # 55 leave 44 - 10 e, enough for exit 3 - e and its answer: 3 exits in all, less than 4.
        ([55.0, 55.0], 2),
        # Together exits 0 and 2.  The first alone at exit 0 leaves 44 ms to the second, enough for exit 3.
        ([25.0, 55.0], 1),
        # The first alone at exit 1 leaves 79 ms to the others: exit 3 for all three, after 70 + 1.
        ([21.0, 100.0, 100.0, 100.0], 1),
    ],
)
def test_a_batch_is_as_large_as_gives_all_together_the_most_exits(left: list[float], size: int) -> None:
    assert batch_size(COSTS, left) == size


@pytest.mark.parametrize(
    ("running", "waiting", "stop"),
    [
        # Nobody waits: as deep as the time and the request allow.  From exit 0 on, exit e answers after 10 e + 1 ms.
        ([(FOREVER, 3)], [], 3),
        ([(FOREVER, 2)], [], 2),
        ([(21.0, 3)], [], 2),
        ([(20.9, 3)], [], 1),
        ([(0.0, 3)], [], 0),
        # One waits and has time: 30 ms to exit 3, and 42 for its own.
        ([(FOREVER, 3)], [31.0 + 41.0], 3),
        # One waits with 50 ms.  Stop at 0, 1, 2, 3: it begins after 1, 11, 21, 31 ms and reaches exit 3, 2, 1, 0; the
        # sum is 3 each time, so the batch goes on, for who waits may give up.
        ([(FOREVER, 3)], [50.0], 3),
        # Two wait and would be answered together: exits 2, 1, 0 and none; sums are 4, 3, 2 and far below.
        ([(FOREVER, 3)], [50.0, 50.0], 0),
        # It must begin within 10 ms to be answered at all.
        ([(FOREVER, 3)], [21.0], 0),
    ],
)
def test_a_batch_of_one_at_exit_0_stops_where_all_together_get_deepest(
    running: list[tuple[float, int]], waiting: list[float], stop: int
) -> None:
    assert best_stop(COSTS, 1, 0, running, waiting) == stop


def test_a_larger_batch_goes_on_where_a_single_one_would_stop() -> None:
    # Four at exit 0 gain four exits each 20 ms, the one that waits loses two.
    assert best_stop(COSTS, 4, 0, [(FOREVER, 3)] * 4, [63.0]) == 2
    assert best_stop(COSTS, 1, 0, [(FOREVER, 3)], [21.0]) == 0


times = st.lists(st.floats(0.1, 20.0), min_size=4, max_size=4).map(
    lambda steps: tuple(sum(steps[: place + 1]) for place in range(4))
)


@given(
    st.tuples(times, times),
    st.integers(0, 3),
    st.lists(st.tuples(st.floats(-5.0, 200.0), st.integers(0, 3)), min_size=1, max_size=2),
    st.lists(st.floats(-5.0, 200.0), max_size=5).map(sorted),
)
def test_a_stop_is_an_exit_from_here_on_and_more_who_wait_never_make_it_deeper_than_nobody(
    reached: tuple[tuple[float, ...], tuple[float, ...]],
    place: int,
    running: list[tuple[float, int]],
    waiting: list[float],
) -> None:
    costs = BatchCosts(sizes=(1, 2), reached=reached, answer=(0.5, 0.7))
    running = [(left, max(limit, place)) for left, limit in running]

    alone = best_stop(costs, len(running), place, running, [])
    stop = best_stop(costs, len(running), place, running, waiting)

    assert place <= stop <= alone <= max(limit for _, limit in running)


@given(st.lists(st.floats(-5.0, 200.0), min_size=1, max_size=9).map(sorted))
def test_at_least_one_is_taken_and_never_more_than_pay(left: list[float]) -> None:
    assert 1 <= batch_size(COSTS, left) <= min(len(left), 4)
