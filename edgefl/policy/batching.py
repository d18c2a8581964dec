"""Many requests at once: how many to answer together, and when a batch should make room for those that wait.

Pure functions of measured times.  Depth is shed before requests are: whoever waits is to reach an exit in its time,
and beyond that all requests together as many exits as they can.  Times are in milliseconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property

import msgspec

__all__ = ["BatchCosts", "batch_size", "best_stop"]

_PAYS = 0.97
"""A larger batch pays where a sample takes less than that share of its time in a smaller one."""

_LOST = 100
"""Exits that a request is worth which no exit could answer in its time."""


class BatchCosts(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What batches take on this device.

    Attributes:
        sizes: Samples of the batches that were measured, rising from 1.
        reached: For each size, the time until each of the bundle's exits is reached, rising.
        answer: For each size, the time that an exit's answer takes.
    """

    sizes: tuple[int, ...]
    reached: tuple[tuple[float, ...], ...]
    answer: tuple[float, ...]

    def times(self, size: int) -> tuple[float, ...]:
        """Return the time until a batch of any size from 1 to the largest measured one has reached each exit."""
        return self._every_size[size - 1]

    def answer_time(self, size: int) -> float:
        """Return the time that the answer of one exit takes for a batch."""
        return self.answer[bisect_right(self.sizes, size) - 1]

    @cached_property
    def most(self) -> int:
        """The size at which a sample takes the least time, as far as it takes less than in smaller batches."""
        best = 0
        for place in range(1, len(self.sizes)):
            if self._per_sample(place) < _PAYS * self._per_sample(best):
                best = place
        return self.sizes[best]

    def _per_sample(self, place: int) -> float:
        return (self.reached[place][-1] + self.answer[place]) / self.sizes[place]

    @cached_property
    def _every_size(self) -> list[tuple[float, ...]]:
        """Times of each size from 1 to the largest, on straight lines between measured ones."""
        every = [self.reached[0]]
        for place in range(1, len(self.sizes)):
            (small, large), (low, high) = self.sizes[place - 1 : place + 1], self.reached[place - 1 : place + 1]
            for size in range(small + 1, large + 1):
                share = (size - small) / (large - small)
                every.append(tuple(one + share * (other - one) for one, other in zip(low, high, strict=True)))
        return every


def batch_size(costs: BatchCosts, left: Sequence[float]) -> int:
    """Say how many requests to answer together, for the most exits of all that wait.

    Args:
        costs: Of batches.
        left: Time left to each request that waits, rising; the first is answered in any case.

    Returns:
        How many of the first ones, at most as many as pay; of sizes that are alike the largest, which is done soonest.
    """

    def exits(size: int) -> float:
        times, answer = costs.times(size), costs.answer_time(size)
        own = [max(_reach(times, one - answer), 0) for one in left[:size]]
        return _best(costs, size, (0.0, 0), own, left[size:])[0]

    return max(range(1, _together(costs, left) + 1), key=lambda size: (exits(size), size))


def best_stop(
    costs: BatchCosts, size: int, place: int, running: Sequence[tuple[float, int]], waiting: Sequence[float]
) -> int:
    """Say at which exit a running batch should end, for the most exits of it and of those that wait, together.

    Args:
        costs: Of batches.
        size: Samples of the batch.
        place: Place of the exit it has reached among the bundle's, from 0.
        running: Of each request in it that is not answered yet, at least one: the time left, and the place of the
            deepest exit that it may have.
        waiting: Time left to each request that waits, rising.

    Returns:
        The place of the exit at which the last of them should be answered: `place` to stop now.  Requests whose own
        time is over before are answered earlier.
    """
    times, answer = costs.times(size), costs.answer_time(size)
    reached = times[place]
    own = [min(max(_reach(times, reached + left - answer), place), limit) for left, limit in running]
    return _best(costs, size, (reached, place), own, waiting)[1]


def _best(
    costs: BatchCosts, size: int, start: tuple[float, int], own: Sequence[int], waiting: Sequence[float]
) -> tuple[float, int]:
    """Return the most exits that a batch and those that wait reach together, and the exit where the batch then ends.

    Args:
        costs: Of batches.
        size: Samples of the batch.
        start: Its time so far, and the first exit where it may end.
        own: The deepest exit of each request in it that is not answered yet.
        waiting: Time left to each request that waits, rising; those count that the next batch would take.
    """
    (begun, first), times, answer = start, costs.times(size), costs.answer_time(size)
    deepest = max(own)
    if not waiting:
        return sum(own), deepest
    together = _together(costs, waiting)
    theirs, their_answer = costs.times(together), costs.answer_time(together)
    best, best_exits = first, float("-inf")
    for stop in range(first, deepest + 1):
        busy = times[stop] - begun + answer
        exits = float(sum(min(stop, reach) for reach in own))
        for one in waiting[:together]:
            reach = _reach(theirs, one - busy - their_answer)
            exits += reach if reach >= 0 else -_LOST
        if exits >= best_exits:  # of stops that are alike the deepest: who waits now may be gone, who came may not
            best, best_exits = stop, exits
    return best_exits, best


def _together(costs: BatchCosts, left: Sequence[float]) -> int:
    """Return how many of the first ones pay together, but so few that exit 0 is in time for all of them; at least 1."""
    size = 1
    while size < min(len(left), costs.most):
        if costs.times(size + 1)[0] + costs.answer_time(size + 1) > left[0]:
            break
        size += 1
    return size


def _reach(times: Sequence[float], left: float) -> int:
    """Return the deepest exit that is reached in so much time from the start; -1 for none."""
    return bisect_right(times, left) - 1
