"""Accuracy against time: what stopping early comes to, on samples that its thresholds were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefl.calibrate.temperature import fit_temperature
from edgefl.calibrate.thresholds import fit_thresholds, stop_at
from edgefl.predict.calibration import FrontierPoint, confidence

__all__ = ["Rule", "assign_folds", "find_rule", "pareto"]

_Floats = np.ndarray[Any, np.dtype[np.float64]]
_Integers = np.ndarray[Any, np.dtype[np.int64]]
_Logits = np.ndarray[Any, np.dtype[np.float32]]

_WEIGHTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When each exit answers, and what that comes to.

    Attributes:
        temperatures: (E,), fitted on all samples.
        thresholds: (E,), fitted on all samples.
        confidences: (E, N), each at a temperature fitted on the other fold.
        stops: (N,), positions of the exits that answer with the thresholds fitted on the other fold.
        chosen: What these stops come to.
        frontier: The choices that no other one beats in both, cost rising.
    """

    temperatures: _Floats
    thresholds: _Floats
    confidences: _Floats
    stops: _Integers
    chosen: FrontierPoint
    frontier: list[FrontierPoint]


def find_rule(logits: _Logits, labels: _Integers, costs: _Floats, max_loss: float) -> Rule:
    """Find the cheapest rule that is nearly as accurate as the deepest exit, by two-fold cross-validation.

    To choose from are every single exit and the thresholds for 64 weights of an error against time.  The choice itself
    is made on the cross-validated numbers, which therefore flatter it a little.

    Args:
        logits: (E, N, C), finite, of every exit; two samples or more.
        labels: (N,), integers in [0, C).
        costs: (E,), milliseconds until each exit has answered, rising, the last above 0.
        max_loss: Accuracy that may be given up against the deepest exit, from 0 to 1.
    """
    exits, count = logits.shape[:2]
    weights = costs[-1] * np.geomspace(0.01, 10.0 * count, _WEIGHTS)
    folds = assign_folds(labels)
    confidences = np.empty((exits, count))
    stops = np.empty((exits + _WEIGHTS, count), np.int64)
    for seen, unseen in ((folds == 0, folds == 1), (folds == 1, folds == 0)):
        temperatures, candidates = _fit(logits[:, seen], labels[seen], costs, weights)
        confidences[:, unseen] = _confidences(logits[:, unseen], temperatures)
        stops[:, unseen] = [stop_at(confidences[:, unseen], thresholds) for thresholds in candidates]
    right = logits.argmax(-1) == labels
    correct = right[stops, np.arange(count)].sum(axis=1)
    means = costs[stops].mean(axis=1)
    points = [
        FrontierPoint(cost_ms=cost, accuracy=c / count)
        for cost, c in zip(means.tolist(), correct.tolist(), strict=True)
    ]
    # A thousandth of a sample: max_loss * count is seldom exact.
    enough = correct >= right[-1].sum() - max_loss * count - 1e-3
    chosen = int(np.lexsort((-correct, means, ~enough))[0])
    temperatures, candidates = _fit(logits, labels, costs, weights)
    return Rule(
        temperatures=temperatures,
        thresholds=candidates[chosen],
        confidences=confidences,
        stops=stops[chosen],
        chosen=points[chosen],
        frontier=pareto(points),
    )


def assign_folds(labels: _Integers) -> _Integers:
    """Return the fold of each sample, 0 or 1: of every class one half each, to within one sample.

    Args:
        labels: (N,).
    """
    folds = np.empty(len(labels), np.int64)
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % 2
    return folds


def pareto(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """Return the points that no other one beats: as cost rises, so does accuracy."""
    kept: list[FrontierPoint] = []
    for point in sorted(points, key=lambda p: (p.cost_ms, -p.accuracy)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return kept


def _fit(logits: _Logits, labels: _Integers, costs: _Floats, weights: _Floats) -> tuple[_Floats, _Floats]:
    """Return temperatures (E,) and the thresholds to choose from (E + L, E)."""
    temperatures = np.array([fit_temperature(of_exit, labels) for of_exit in logits])
    confidences = _confidences(logits, temperatures)
    fitted = fit_thresholds(confidences, logits.argmax(-1) == labels, costs, weights)
    # Row e answers at exit e alone: never before, always there.
    single = np.tril(np.ones((len(costs), len(costs))), -1)
    return temperatures, np.concatenate([single, fitted])


def _confidences(logits: _Logits, temperatures: _Floats) -> _Floats:
    return np.array([confidence(each, float(t)) for each, t in zip(logits, temperatures, strict=True)])
