"""Backward induction over the exits: cases whose best thresholds can be seen, and all thresholds there are."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.calibrate.thresholds import fit_thresholds, stop_at

Array = np.ndarray[Any, Any]

SHALLOW, DEEP = [0.9, 0.7, 0.6, 0.4], [0.5, 0.5, 0.5, 0.5]
COSTS = np.array([1.0, 3.0])


def fitted(shallow_right: list[int], deep_right: list[int], weight: float) -> list[float]:
    right = np.array([shallow_right, deep_right], bool)
    (found,) = fit_thresholds(np.array([SHALLOW, DEEP]), right, COSTS, np.array([weight]))
    return [float(threshold) for threshold in found]


def objective(confidences: Array, right: Array, costs: Array, weight: float, thresholds: Array) -> float:
    """Return milliseconds and weighted errors of all samples, straight from the rule."""
    total = 0.0
    for sample in range(confidences.shape[1]):
        e = next(e for e in range(len(costs)) if confidences[e, sample] >= thresholds[e])
        total += costs[e] + weight * (not right[e, sample])
    return total


def test_the_threshold_lies_half_way_between_the_last_that_stops_and_the_first_that_goes_on() -> None:
    # Going deeper costs 2 ms and saves an error, worth 10 ms, of the two unsure samples.
    assert fitted([1, 1, 0, 0], [1, 1, 1, 1], 10.0) == [pytest.approx(0.65), 0.0]


def test_where_going_on_saves_nothing_every_sample_stops() -> None:
    assert fitted([1, 1, 0, 0], [1, 1, 0, 0], 10.0) == [0.0, 0.0]


def test_where_an_error_is_worth_less_than_the_time_every_sample_stops() -> None:
    assert fitted([0, 0, 0, 0], [1, 1, 1, 1], 1.9) == [0.0, 0.0]
    assert fitted([0, 0, 0, 0], [1, 1, 1, 1], 2.1) == [1.0, 0.0]


def test_one_sure_mistake_is_accepted_for_the_time_the_others_save() -> None:
    # Stopping the first three saves 6 ms and makes one error, worth 5 ms; stopping two makes it too and saves 4 ms.
    assert fitted([0, 1, 1, 0], [1, 1, 1, 1], 5.0) == [pytest.approx(0.5), 0.0]
    assert fitted([0, 1, 1, 0], [1, 1, 1, 1], 7.0) == [1.0, 0.0]


def test_samples_of_equal_confidence_stop_together_or_not_at_all() -> None:
    confidences = np.array([[0.8, 0.8, 0.3], [0.5, 0.5, 0.5]])
    right = np.array([[1, 0, 0], [1, 1, 1]], bool)

    # The two at 0.8: 4 ms saved against one error.  The right one alone would be worth it at any weight.
    weights = np.array([3.0, 5.0])
    assert fit_thresholds(confidences, right, COSTS, weights)[:, 0].tolist() == [pytest.approx(0.55), 1.0]


def test_neighbouring_floats_are_told_apart() -> None:
    upper = 0.75
    lower = float(np.nextafter(upper, 0.0))
    right = np.array([[1, 0], [1, 1]], bool)

    (found,) = fit_thresholds(np.array([[upper, lower], [0.5, 0.5]]), right, COSTS, np.array([10.0]))

    assert stop_at(np.array([[upper, lower], [0.5, 0.5]]), found).tolist() == [0, 1]


def test_the_first_exit_that_is_sure_enough_answers() -> None:
    confidences = np.array([[0.9, 0.2, 0.2, 0.7], [0.9, 0.6, 0.4, 0.1], [0.1, 0.1, 0.1, 0.1]])

    assert stop_at(confidences, np.array([0.7, 0.6, 0.0])).tolist() == [0, 1, 2, 0]
    assert stop_at(confidences, np.array([1.0, 0.0, 0.0])).tolist() == [1, 1, 1, 1]


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12), weight=st.floats(0.0, 10.0))
def test_with_two_exits_no_other_threshold_is_better(seed: int, count: int, weight: float) -> None:
    random = np.random.default_rng(seed)
    confidences = random.integers(0, 6, (2, count)) / 6
    right = random.random((2, count)) < 0.6

    (found,) = fit_thresholds(confidences, right, COSTS, np.array([weight]))

    best = min(objective(confidences, right, COSTS, weight, np.array([t, 0.0])) for t in all_cuts(confidences[0]))
    assert objective(confidences, right, COSTS, weight, found) == pytest.approx(best)


@given(seed=st.integers(0, 2**32 - 1), weight=st.floats(0.0, 20.0))
def test_with_four_exits_it_is_never_worse_than_answering_always_at_one(seed: int, weight: float) -> None:
    random = np.random.default_rng(seed)
    costs = np.array([1.0, 2.0, 3.0, 4.0])
    confidences, right = random.random((4, 6)), random.random((4, 6)) < 0.6

    (found,) = fit_thresholds(confidences, right, costs, np.array([weight]))

    single = min(float((costs[e] + weight * ~right[e]).sum()) for e in range(4))
    assert objective(confidences, right, costs, weight, found) <= single + 1e-9


def all_cuts(confidences: Array) -> list[float]:
    """Return a threshold for each number of samples that can stop."""
    return [0.0, 1.0, *confidences.tolist()]


def best_of_all(confidences: Array, right: Array, costs: Array, weight: float) -> float:
    cuts = [all_cuts(of_exit) for of_exit in confidences[:-1]]
    every = (np.array([*choice, 0.0]) for choice in itertools.product(*cuts))
    return min(objective(confidences, right, costs, weight, thresholds) for thresholds in every)


def test_with_three_exits_it_is_near_the_best_of_all_on_average() -> None:
    random = np.random.default_rng(0)
    costs, weight = np.array([1.0, 2.0, 4.0]), 5.0
    ratios = []
    for _ in range(40):
        difficulty = random.random(6)
        confidences = 1.0 - difficulty * random.uniform(0.4, 1.0, (3, 6))
        right = difficulty < np.array([[0.5], [0.7], [0.9]])
        (found,) = fit_thresholds(confidences, right, costs, np.array([weight]))
        best = best_of_all(confidences, right, costs, weight)
        ratios.append(objective(confidences, right, costs, weight, found) / best)

    assert min(ratios) >= 1.0 - 1e-12
    assert np.mean(ratios) < 1.01


def test_with_three_exits_a_sample_that_a_shallower_one_answers_can_spoil_the_choice() -> None:
    # The first sample is answered at exit 0.  Exit 1, which is surely wrong there, is fitted on it all the same, and
    # then stops no sample, though it would be right on the second: 1 + 3 ms where 1 + 2 ms would do.
    confidences = np.array([[0.9, 0.1], [0.9, 0.8], [0.5, 0.5]])
    right = np.array([[1, 0], [0, 1], [1, 1]], bool)
    costs = np.array([1.0, 2.0, 3.0])

    (found,) = fit_thresholds(confidences, right, costs, np.array([5.0]))

    assert found.tolist() == [pytest.approx(0.5), 1.0, 0.0]
    assert objective(confidences, right, costs, 5.0, found) == 4.0
    assert best_of_all(confidences, right, costs, 5.0) == 3.0
