"""Accuracy against time: honest folds, a frontier that rises, and the cheapest rule that is accurate enough."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.calibrate.frontier import assign_folds, find_rule, pareto
from edgefl.calibrate.temperature import fit_temperature
from edgefl.predict.calibration import FrontierPoint, confidence

Array = np.ndarray[Any, Any]

COUNT = 40
LABELS = np.zeros(COUNT, np.int64)
ODD = np.arange(COUNT) % 2 == 1
COSTS = np.array([1.0, 4.0])


def leads(gaps: Array) -> Array:
    """Return logits (N, 2) in which class 0, which is right, leads by a gap, or lags."""
    return np.stack([gaps, np.zeros_like(gaps)], axis=1).astype(np.float32)


def test_every_class_is_halved_and_so_is_the_whole() -> None:
    labels = np.array([3, 1, 3, 0, 3, 1, 3, 3])

    # By class: 0 at [3], 1 at [1, 5], 3 at [0, 2, 4, 6, 7]; every other one of that row.
    assert assign_folds(labels).tolist() == [1, 1, 0, 0, 1, 0, 0, 1]


def test_easy_samples_stop_early_and_hard_ones_go_on() -> None:
    # Every second pair is easy, so that both folds have both kinds: exit 0 is sure and right, or unsure and wrong.
    easy = np.arange(COUNT) // 2 % 2 == 0
    logits = np.stack([leads(np.where(easy, 4.0, -0.5)), leads(np.full(COUNT, 3.0))])

    rule = find_rule(logits, LABELS, COSTS, max_loss=0.0)

    assert rule.stops.tolist() == np.where(easy, 0, 1).tolist()
    assert rule.chosen == FrontierPoint(cost_ms=2.5, accuracy=1.0)
    surer, less = (confidence(leads(np.array([gap])), rule.temperatures[0])[0] for gap in (4.0, 0.5))
    assert rule.thresholds.tolist() == [pytest.approx((surer + less) / 2), 0.0]


def test_what_helps_only_the_samples_it_was_fitted_on_is_not_chosen() -> None:
    # Folds are odd and even here.  Exit 0 is right on the odd ones alone, with the same confidence: fitted on them it
    # stops, which is wrong on the even ones; fitted on these it goes on.  On its own half either would be perfect.
    logits = np.stack([leads(np.where(ODD, 2.0, -2.0)), leads(np.full(COUNT, 3.0))])

    rule = find_rule(logits, LABELS, COSTS, max_loss=0.005)

    assert rule.chosen == FrontierPoint(cost_ms=4.0, accuracy=1.0)
    assert rule.thresholds.tolist() == [1.0, 0.0]


def test_a_loss_that_may_be_is_given_up_for_time_to_the_last_sample() -> None:
    logits = np.stack([leads(np.where(ODD, 2.0, -2.0)), leads(np.full(COUNT, 3.0))])

    # Exit 0 alone is right on 20 of 40.
    assert find_rule(logits, LABELS, COSTS, max_loss=0.5).chosen == FrontierPoint(cost_ms=1.0, accuracy=0.5)
    assert find_rule(logits, LABELS, COSTS, max_loss=0.49).chosen.accuracy > 0.5


def test_a_sample_s_confidence_has_a_temperature_of_the_other_fold() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((2, COUNT, 3)).astype(np.float32)
    labels = random.integers(0, 3, COUNT)
    folds = assign_folds(labels)

    rule = find_rule(logits, labels, COSTS, max_loss=0.0)

    for e in range(2):
        for fold in range(2):
            temperature = fit_temperature(logits[e, folds != fold], labels[folds != fold])
            expected = confidence(logits[e, folds == fold], temperature)
            assert rule.confidences[e, folds == fold] == pytest.approx(expected)
        assert rule.temperatures[e] == fit_temperature(logits[e], labels)


@given(seed=st.integers(0, 2**32 - 1), exits=st.integers(1, 4), loss=st.sampled_from([0.0, 0.005, 0.1, 1.0]))
def test_the_chosen_rule_is_on_a_frontier_that_rises_and_loses_no_more_than_it_may(
    seed: int, exits: int, loss: float
) -> None:
    random = np.random.default_rng(seed)
    logits = random.standard_normal((exits, 25, 3)).astype(np.float32)
    labels = random.integers(0, 3, 25)
    logits[:, np.arange(25), labels] += np.linspace(0.5, 2.0, exits, dtype=np.float32)[:, None]
    costs = np.cumsum(random.uniform(0.1, 2.0, exits))

    rule = find_rule(logits, labels, costs, loss)

    right = logits.argmax(-1) == labels
    assert rule.chosen in rule.frontier
    assert rule.chosen.accuracy >= right[-1].mean() - loss - 1e-9
    assert rule.chosen.accuracy == pytest.approx(right[rule.stops, np.arange(25)].mean())
    assert rule.chosen.cost_ms == pytest.approx(costs[rule.stops].mean())
    assert rule.thresholds[-1] == 0.0
    assert costs[0] - 1e-9 <= rule.frontier[0].cost_ms
    assert rule.frontier[-1].cost_ms <= costs[-1] + 1e-9


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_a_frontier_rises_in_both_and_beats_every_point_there_is(pairs: list[tuple[int, int]]) -> None:
    points = [FrontierPoint(cost_ms=float(cost), accuracy=accuracy / 5) for cost, accuracy in pairs]

    kept = pareto(points)

    assert all(a.cost_ms < b.cost_ms and a.accuracy < b.accuracy for a, b in itertools.pairwise(kept))
    assert all(any(k.cost_ms <= p.cost_ms and k.accuracy >= p.accuracy for k in kept) for p in points)
    assert all(k in points for k in kept)
